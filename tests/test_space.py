"""The page of `examples/space`: as the documentation starts it, in a real browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml
from PIL import Image
from tools.libraries import needs
from tools.nfa import write_images
from tools.space import SPACE, in_browser, served

import nfaug

needs("gradio")

ROOT = SPACE.parents[1]


def test_in_a_browser(tmp_path: Path) -> None:
    """Move a slider, change class and checkpoint, drop a picture and a broken one."""
    from playwright.sync_api import expect

    images = write_images(tmp_path / "my-images", 16, train=8, val=2)
    nfaug.fit("builtin:pixels", images, rank=4, progress=False).save(tmp_path / "look-nfa")
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(tmp_path / "picture.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    page_text = (ROOT / "docs" / "how-to" / "look.md").read_text(encoding="utf-8")
    line = re.search(r"^python examples/space/app\.py (.*)$", page_text, re.M)
    assert line is not None
    with served(shlex.split(line[1]), tmp_path) as address, in_browser(address) as page:
        shown = page.locator(".thumbnail-item img:visible")
        expect(shown).to_have_count(13)
        told = page.locator("#told textarea")
        expect(told).to_have_value(re.compile(r"[1-6] of 6 variants differ"))

        before = shown.nth(1).get_attribute("src") or ""
        page.get_by_label("range slider for Strength").fill("0")
        expect(shown.nth(1)).not_to_have_attribute("src", before)
        expect(told).to_have_value(re.compile("^0 of 6 variants"))
        image = page.request.get(shown.nth(0).get_attribute("src") or "").body()
        variant = page.request.get(shown.nth(1).get_attribute("src") or "").body()
        assert image == variant, "without strength a variant is the image"

        before = shown.nth(0).get_attribute("src") or ""
        page.set_input_files("#upload input[type=file]", str(tmp_path / "picture.png"))
        expect(page.locator("#upload")).to_contain_text("picture")
        expect(shown.nth(0)).not_to_have_attribute("src", before)
        before = shown.nth(0).get_attribute("src") or ""
        page.locator("#upload").get_by_label("Clear").click()
        expect(shown.nth(0)).not_to_have_attribute("src", before)

        before = shown.nth(0).get_attribute("src") or ""
        page.get_by_label("Class").first.click()
        page.get_by_role("option", name="dog").click()
        expect(shown.nth(0)).not_to_have_attribute("src", before)

        page.set_input_files("#upload input[type=file]", str(tmp_path / "broken.png"))
        expect(page.locator(".toast-body")).to_contain_text("broken.png")

        page.get_by_label("Checkpoint").first.click()
        page.get_by_role("option", name="2. look-nfa").click()
        expect(page.get_by_label("Class").first).to_have_value("cat")
        expect(told).to_have_value(re.compile("^0 of 6 variants"))
        expect(page.locator(".toast-body")).to_have_count(1)


def test_the_space() -> None:
    """Its header and requirements name what the app needs."""
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert (SPACE / header["app_file"]).is_file()
    assert header["sdk"] == "gradio"
    assert tuple(map(int, header["sdk_version"].split(".")[:2])) >= (6, 20)
    # An address, since the name on PyPI is not this project's.
    assert (SPACE / "requirements.txt").read_text() == "nfaug @ git+URL\n"
