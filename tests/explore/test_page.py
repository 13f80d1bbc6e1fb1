"""The explorer's page: over HTTP as a program sees it, and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import run_python
from PIL import Image

from nfaug.cli import main

RUN = Path(__file__).parent.parent / "data" / "run_v1"
SPACE = Path(__file__).parents[2] / "examples" / "space"


OFFERED = """
import sys
import gradio as gr
from nfaug.explore.app import build_app

offered, other = sys.argv[1:]
for anything in (False, True):
    page = build_app([offered], any_flow=anything)
    assert page.delete_cache == (600, 3600)
    functions = {entry.api_name: entry.fn for entry in page.fns.values() if entry.api_name}
    for name, values in ("flow", ("native", 0)), ("image", ("cat", "native", None, 0)):
        try:
            functions[name](other, *values)
            print(anything, name, "opened")
        except gr.Error as error:
            assert "there is no flow" in str(error), error
            print(anything, name, "refused")
"""


@pytest.fixture(scope="module")
def address(tiny_path: Path, tiny_folder: Path) -> Iterator[str]:
    """The command with two flows of the same classes; at the end Ctrl-C stops it."""
    words = ["explore", "--flow", tiny_path, RUN, "--data", tiny_folder, "--no-browser", "--json"]
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
    printed, errors = served.communicate(timeout=60)
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


def test_over_http(address: str, broken: Path, picture: Path, tiny_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    flow = str(tiny_path)

    def variants(strength: float, gated: bool = True) -> tuple[Any, Any, str]:
        return client.predict(
            flow, "dog", strength, 0, 4, 1, 1.25, gated, "axis", 0, api_name="/variants"
        )

    def pixels(gallery: Any) -> list[bytes]:
        return [Path(entry["image"]).read_bytes() for entry in gallery]

    client.predict(flow, "dog", "native", None, 0, api_name="/image")
    strong, differences, told = variants(1.5, gated=False)
    assert len(strong) == 8
    assert len(differences) == 6
    assert "bit for bit" in told
    still, *_ = variants(0.0, gated=False)
    assert len({*pixels(still)}) == 1, "without strength all are the image"
    assert pixels(strong)[0] == pixels(still)[0]
    assert pixels(strong)[2] != pixels(still)[2]
    latent, mixed = client.predict(flow, api_name="/path")
    assert pixels(latent)[0] == pixels(mixed)[0] == pixels(still)[0]
    walk, position = client.predict(flow, "dog", 2, api_name="/axis")
    assert len(walk) == 7
    assert "Axis 2" in position

    client.predict(flow, "dog", "64", handle_file(picture), 0, api_name="/image")
    uploaded, *_ = variants(0.0)
    with Image.open(uploaded[0]["image"]) as shown:
        assert shown.size == (192, 192), "64 pixels, enlarged by a whole factor"
    with pytest.raises(AppError, match=r"broken\.png"):
        client.predict(flow, "dog", "64", handle_file(broken), 0, api_name="/image")
    with pytest.raises(AppError, match="wolf"):
        client.predict(flow, "wolf", 1, api_name="/axis")
    report = client.predict(str(RUN), "native", 0, api_name="/flow")
    assert "sandbox" in str(report)
    with pytest.raises(AppError, match="checkpoint"):
        client.predict(str(tiny_path.parent), "native", 0, api_name="/flow")


def test_no_statistics_and_no_other_machine(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        page = answer.read().decode()
    assert address.startswith("http://127.0.0.1:")
    assert '"analytics_enabled":false' in page.replace(" ", "")


def test_the_space() -> None:
    """Its app builds the page; its header and requirements name what the app needs."""
    script = f"import runpy; print(runpy.run_path({str(SPACE / 'app.py')!r})['page'].title)"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert ran.stdout == "NFA explorer\n", ran.stderr
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert (SPACE / header["app_file"]).is_file()
    assert header["sdk"] == "gradio"
    assert tuple(map(int, header["sdk_version"].split(".")[:2])) >= (6, 20)
    assert (SPACE / "requirements.txt").read_text().split() == ["nfaug[ui]"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
    ],
)
def test_visitors_from_other_machines_choose_among_the_flows(
    host: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def build(*_: Any, **options: Any) -> None:
        told.update(options)
        raise ValueError("built")

    monkeypatch.setattr("nfaug.explore.app.build_app", build)
    assert main(["explore", "--host", host, "--no-browser"]) == 2
    assert told["any_flow"] is expected


def test_a_flow_that_is_not_offered(tiny_path: Path, tmp_path: Path) -> None:
    """A page for others opens no folder of this machine; uploads do not stay on it."""
    other = str(shutil.copytree(tiny_path, tmp_path / "other"))
    ran = run_python(["-c", OFFERED, tiny_path, other])
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "False flow refused", "False image refused", "True flow opened", "True image opened",
    ]  # fmt: skip


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--flow", "builtin:pixels", "--no-browser"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["explore", "--flow", str(tmp_path / "none"), "--no-browser"]) == 2
    assert "none" in capsys.readouterr().err
    assert main(["explore", "--host", "localhorst", "--no-browser"]) == 2
    assert "localhorst" in capsys.readouterr().err


def test_in_a_browser(address: str, broken: Path, picture: Path) -> None:
    """Load, move a slider, change the class and the tab, upload a picture and a broken one."""
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "this test opens the page: apt-get install chromium"
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
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

        before = shown.nth(2).get_attribute("src")
        slider = page.get_by_label("range slider for Strength")
        slider.fill("0")
        expect(shown.nth(2)).not_to_have_attribute("src", before or "")
        first = page.request.get(shown.nth(0).get_attribute("src") or "").body()
        third = page.request.get(shown.nth(2).get_attribute("src") or "").body()
        assert first == third, "without strength a variant is the image"

        page.set_input_files("#upload input[type=file]", str(picture))
        expect(told).to_contain_text("radius")
        expect(page.locator("#upload")).to_contain_text("picture")
        expect(shown.nth(0)).not_to_have_attribute("src", before or "")

        page.get_by_label("Class").first.click()
        page.get_by_role("option", name="eel").click()
        expect(told).to_contain_text("eel")
        expect(page.locator("#upload")).to_contain_text("picture")

        page.locator("#upload").get_by_label("Clear").click()
        page.set_input_files("#upload input[type=file]", str(broken))
        expect(page.locator(".toast-body")).to_contain_text("broken.png")

        page.get_by_role("tab", name="Path").click()
        expect(shown).to_have_count(14)
        page.get_by_role("tab", name="Axis").click()
        expect(shown).to_have_count(7)
        browser.close()
    assert problems == []
    assert {host for host in hosts if not host.startswith("127.0.0.1:")} <= {""}
