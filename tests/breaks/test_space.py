"""The page of `examples/space`: what strangers' flows and other sites can do."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.libraries import needs
from tools.space import in_browser, served

import nfaug

needs("gradio")

HOSTILE = (
    '<img src="http://evil.invalid/a">',
    "![x](http://evil.invalid/b) **bold** http://evil.invalid",
    "eel",
)
HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "its address": ({}, 200),
    "localhost": ({"Host": "localhost:7860"}, 200),
    "rebound": ({"Host": "rebound.example:7860"}, 400),
    "another site": ({"Origin": "http://evil.example"}, 200),
}


@pytest.fixture(scope="module")
def address(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page of two flows, both called "flow"; the classes of the second are hostile."""
    whole = nfaug.load(tiny_path)
    config = dataclasses.replace(whole.config, classes=HOSTILE)
    hostile = dataclasses.replace(whole, config=config).save(tmp_path_factory.mktemp("x") / "flow")
    with served([tiny_path, hostile]) as found:
        yield found


def answer(address: str, headers: dict[str, str]) -> tuple[int, str, Any]:
    """The status and the text of an answer, and what other sites may do with it."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as got:
            shared = got.headers["Access-Control-Allow-Origin"]
            return got.status, got.read().decode(), shared
    except urllib.error.HTTPError as error:
        return error.code, "", None


def test_class_names_that_are_html(address: str) -> None:
    """Break 26: class names of a stranger's flow were shown as HTML and Markdown."""
    from playwright.sync_api import expect

    with in_browser(address) as page:  # which fails if the page asks evil.invalid
        page.get_by_label("Checkpoint").first.click()
        page.get_by_role("option", name="2. flow").click()
        expect(page.get_by_label("Class").first).to_have_value(HOSTILE[0])
        for name in HOSTILE:
            page.get_by_label("Class").first.click()
            page.get_by_role("option", name=name, exact=True).click()
            expect(page.get_by_label("Class").first).to_have_value(name)
        assert page.locator("[src*=evil], [href*=evil]").count() == 0


def test_only_flows_that_are_offered_are_opened(address: str, tiny_path: Path) -> None:
    """Break 26: a page loads what it was started with, whatever a visitor asks for."""
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    settings = ("cat", None, 0, 1, 0, 1, "axis", 1.25)
    shown, changes, told = client.predict("1. flow", *settings, api_name="/show")
    assert (len(shown), len(changes)) == (7, 6)
    assert "of 6 variants" in told
    for source in (str(tiny_path), "builtin:pixels", "3. flow"):
        with pytest.raises(AppError):
            client.predict(source, *settings, api_name="/show")


@pytest.mark.parametrize("name", HEADERS)
def test_only_its_own_names_are_answered(name: str, address: str) -> None:
    """Break 26: any Host header was answered, so that other sites could read the page."""
    headers, status = HEADERS[name]
    code, text, shared = answer(f"{address}/config", headers)
    assert (code, shared) == (status, None)
    if code == 200:
        assert json.loads(text)["analytics_enabled"] is False


def test_the_folders_of_this_machine(
    address: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Break 64: /config showed the absolute paths of the flows."""
    for path in ("", "config", "gradio_api/info"):
        _, text, _ = answer(f"{address}/{path}", {})
        assert "2. flow" in text
        assert str(tmp_path_factory.getbasetemp()) not in text
