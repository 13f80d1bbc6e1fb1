"""The explorer's page: over HTTP as a program sees it, and in a browser."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import run_python
from library_tools import needs
from PIL import Image

import nfaug
from nfaug.cli import main

needs("gradio")

SPACE = Path(__file__).parents[2] / "examples" / "space"
HOSTILE = (
    '<img src="http://evil.invalid/a">',
    "![x](http://evil.invalid/b) **bold** http://evil.invalid",
    "eel",
)

ALONE = """
import json, runpy, sys
import gradio as gr
from nfaug.explore.app import build_app

app, offered, other = sys.argv[1:]
settings = (None, 0, 1, 0, 1, "axis", 1.25, True)


page = build_app([offered])
assert page.delete_cache == (600, 3600)
found = {entry.api_name: entry.fn for entry in page.fns.values() if entry.api_name}
refused = []
for name, rest in {"choose_flow": settings[1:], "show_variants": ("cat", *settings)}.items():
    found[name]("flow", *rest)
    for source in (offered, other, "other"):
        try:
            found[name](source, *rest)
        except gr.Error as error:
            assert "there is no checkpoint" in str(error), error
        else:
            raise AssertionError(source)
    refused.append(name)
print(json.dumps([refused, runpy.run_path(app)["page"].title]))
"""


@pytest.fixture(scope="module")
def hostile(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow whose class names are HTML and Markdown."""
    whole = nfaug.load(tiny_path)
    config = dataclasses.replace(whole.config, classes=HOSTILE)
    folder = tmp_path_factory.mktemp("hostile") / "flow"
    return dataclasses.replace(whole, config=config).save(folder)


@pytest.fixture(scope="module")
def address(tiny_path: Path, hostile: Path) -> Iterator[str]:
    """The command with two flows; at the end Ctrl-C stops it."""
    words = ["explore", "--checkpoint", tiny_path, hostile, "--no-browser", "--json"]
    served = subprocess.Popen(
        [sys.executable, "-m", "nfaug", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert served.stdout is not None
    assert served.stderr is not None
    told = ""
    for line in served.stderr:
        told += line
        if found := re.search(r"http://[\d.:]+", line):
            break
    assert found, told
    yield found[0]
    served.send_signal(signal.SIGINT)
    try:
        printed, errors = served.communicate(timeout=60)
    finally:
        served.kill()  # or it would run on beside other tests
        served.communicate()
    assert served.returncode == 0, errors
    assert json.loads(printed)["address"].startswith(found[0])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(path)
    return path


def test_over_http(address: str, broken: Path, picture: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)

    def variants(
        strength: float, gated: bool = False, label: str = "dog", file: Path | None = None
    ) -> tuple[Any, Any, str]:
        upload = None if file is None else handle_file(file)
        settings = (strength, 0, 1, "axis", 1.25, gated)
        return client.predict("flow", label, upload, 0, *settings, api_name="/show_variants")

    def pixels(gallery: Any) -> list[bytes]:
        return [Path(entry["image"]).read_bytes() for entry in gallery]

    strong, differences, told = variants(1.5)
    assert len(strong) == 8
    assert len(differences) == 6
    assert "bit for bit" in told
    still, *_ = variants(0.0)
    assert len({*pixels(still)}) == 1, "without strength all are the image"
    assert pixels(strong)[0] == pixels(still)[0]
    assert pixels(strong)[2] != pixels(still)[2]

    uploaded, *_ = variants(0.0, gated=True, file=picture)
    with Image.open(uploaded[0]["image"]) as shown:
        assert shown.size == (168, 168), "8 pixels, enlarged by a whole factor"
    assert pixels(uploaded)[0] != pixels(still)[0]
    with pytest.raises(AppError, match="broken"):
        variants(0.0, file=broken)
    with pytest.raises(AppError, match="wolf"):
        variants(0.0, label="wolf")


def test_without_a_server(tiny_path: Path, tmp_path: Path) -> None:
    """No flow that was not offered is opened, and the Space builds the page."""
    other = shutil.copytree(tiny_path, tmp_path / "other")
    ran = run_python(["-c", ALONE, SPACE / "app.py", tiny_path, other])
    assert ran.returncode == 0, ran.stderr
    refused, title = json.loads(ran.stdout)
    assert refused == ["choose_flow", "show_variants"]
    assert title == "NFA explorer"


def test_the_space() -> None:
    """Its header and requirements name what the app needs."""
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert (SPACE / header["app_file"]).is_file()
    assert header["sdk"] == "gradio"
    assert tuple(map(int, header["sdk_version"].split(".")[:2])) >= (6, 20)
    # An address, since the name on PyPI is not this project's.
    assert (SPACE / "requirements.txt").read_text() == "nfaug[ui] @ git+URL\n"


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, token in (
        (["--checkpoint", "builtin:pixels"], "--data"),
        (["--checkpoint", str(tmp_path / "none")], "none"),
        (["--host", "localhorst"], "localhorst"),
    ):
        assert main(["explore", *words, "--no-browser"]) == 2
        assert token in capsys.readouterr().err


def pictures_come_first_on_a_phone(page: Any) -> bool:
    """Whether a narrow page has the pictures above the controls, and nothing beside it."""
    page.set_viewport_size({"width": 390, "height": 844})
    pictures = page.locator("#pictures").bounding_box()
    controls = page.get_by_label("range slider for Strength").bounding_box()
    width = page.evaluate("document.documentElement.scrollWidth")
    return pictures["y"] + pictures["height"] <= controls["y"] and width <= 390


def launched(browsers: Any) -> Any:
    """A browser of the system or of playwright."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None and not Path(browsers.executable_path).exists():
        assert "CI" not in os.environ, "CI has a browser"
        pytest.skip("no chromium, Chrome or browser of playwright")
    return browsers.launch(executable_path=chromium, args=["--no-sandbox"])


def test_in_a_browser(address: str, broken: Path, picture: Path) -> None:
    """Load, move a slider, change class and flow, upload a picture and a broken one."""
    needs("playwright")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as tools:
        browser = launched(tools.chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        problems: list[str] = []
        hosts: set[str] = set()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        shown = page.locator(".thumbnail-item img:visible")
        expect(shown).to_have_count(14)
        told = page.locator("#status")
        expect(told).to_contain_text("bit for bit")

        page.get_by_label("Use the gate").uncheck()
        expect(told).to_contain_text("the gate is off")
        before = shown.nth(2).get_attribute("src") or ""
        slider = page.get_by_label("range slider for Strength")
        slider.fill("0")
        expect(shown.nth(2)).not_to_have_attribute("src", before)
        first = page.request.get(shown.nth(0).get_attribute("src") or "").body()
        third = page.request.get(shown.nth(2).get_attribute("src") or "").body()
        assert first == third, "without strength a variant is the image"

        page.set_input_files("#upload input[type=file]", str(picture))
        expect(told).to_contain_text("gate")
        expect(page.locator("#upload")).to_contain_text("picture")

        page.get_by_label("Class").first.click()
        page.get_by_role("option", name="eel").click()
        expect(told).to_contain_text("eel")
        expect(page.locator("#upload")).to_contain_text("picture")

        uploaded = shown.nth(0).get_attribute("src")
        page.locator("#upload").get_by_label("Clear").click()
        expect(shown.nth(0)).not_to_have_attribute("src", uploaded or "")
        page.set_input_files("#upload input[type=file]", str(broken))
        expect(page.locator(".toast-body")).to_contain_text("broken.png")

        page.get_by_label("Checkpoint").first.click()
        page.get_by_role("option", name="flow (2)").click()
        expect(told).to_contain_text(HOSTILE[0])
        expect(page.get_by_label("Class").first).to_have_value(HOSTILE[0])
        expect(page.locator(".toast-body")).to_have_count(1)
        assert pictures_come_first_on_a_phone(page)
        browser.close()
    assert problems == []
    assert {host for host in hosts if not host.startswith("127.0.0.1:")} <= {""}
