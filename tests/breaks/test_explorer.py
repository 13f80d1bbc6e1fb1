"""Breaks of the page of `nfaug explore`: what strangers' flows and other sites can do."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from forked import run_python
from library_tools import needs

import nfaug

needs("gradio")

HOSTILE = (
    '<img src="http://evil.invalid/a">',
    "![x](http://evil.invalid/b) **bold** http://evil.invalid",
    "eel",
)
HEADERS: dict[str, dict[str, str]] = {
    "its address": {},
    "localhost": {"Host": "localhost:7860"},
    "rebound": {"Host": "rebound.example:7860"},
    "another site": {"Origin": "http://evil.example"},
}
SERVED = """
import json, sys, urllib.error, urllib.request
from nfaug.explore.app import build_app, serve

headers = json.loads(sys.argv[1])
flows, labels = sys.argv[2:4], sys.argv[4:]
settings = (None, 0, 1, 0, 1, "axis", 1.25, True)
page = build_app(flows)
functions = {entry.api_name: entry.fn for entry in page.fns.values() if entry.api_name}
named = next(x for x in page.blocks.values() if getattr(x, "label", "") == "Checkpoint")
second = named.choices[1][1]
found = {"told": [functions["show_variants"](second, x, *settings)[2] for x in labels]}
address = serve(page, inbrowser=False, prevent_thread_lock=True)


def answer(path, given):
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, headers=given)) as got:
            shared = got.headers["Access-Control-Allow-Origin"]
            return {"code": got.status, "text": got.read().decode(), "shared": shared}
    except urllib.error.HTTPError as error:
        return {"code": error.code, "text": "", "shared": None}


found["answers"] = {name: answer("config", given) for name, given in headers.items()}
found["pages"] = [answer(path, {})["text"] for path in ("", "config", "gradio_api/info")]
print(json.dumps(found), flush=True)
page.close(verbose=False)
"""


@pytest.fixture(scope="module")
def served(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a page of two flows, both called "flow", answered. Read only."""
    whole = nfaug.load(tiny_path)
    config = dataclasses.replace(whole.config, classes=HOSTILE)
    hostile = dataclasses.replace(whole, config=config).save(tmp_path_factory.mktemp("x") / "flow")
    ran = run_python(["-c", SERVED, json.dumps(HEADERS), tiny_path, hostile, *HOSTILE[:2]])
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["HTML", "Markdown"])
def test_class_names_that_are_html(number: int, served: dict[str, Any]) -> None:
    """Break 26: class names of a stranger's flow were shown as HTML and Markdown."""
    told = served["told"][number]
    assert "evil" in told
    own = re.sub(r"\*\*.*?\*\*|\(.*?\)", "", told)  # the page's own Markdown
    assert not set("<>![]()/") & set(own)


@pytest.mark.parametrize("name", HEADERS)
def test_only_its_own_names_are_answered(name: str, served: dict[str, Any]) -> None:
    """Break 26: any Host header was answered, so that other sites could read the page."""
    answer = served["answers"][name]
    assert answer["code"] == (400 if name == "rebound" else 200)
    assert answer["shared"] is None
    if answer["code"] == 200:
        assert '"analytics_enabled":false' in answer["text"].replace(" ", "")


def test_the_folders_of_this_machine(
    served: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Break 64: /config showed the absolute paths of the flows."""
    for page in served["pages"]:
        assert "flow (2)" in page
        assert str(tmp_path_factory.getbasetemp()) not in page
