"""The page of `examples/space`, served as its command serves it, and a real browser on it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tools.libraries import needs

__all__ = ["SPACE", "in_browser", "served"]

SPACE = Path(__file__).parents[2] / "examples" / "space"


@contextlib.contextmanager
def served(words: Sequence[object], cwd: Path | None = None) -> Iterator[str]:
    """The address of `python examples/space/app.py WORDS...`, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(SPACE / "app.py"), *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
    )  # fmt: skip
    assert process.stdout is not None
    told = ""
    found = None
    try:
        for line in process.stdout:
            told += line
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                break
        assert found, told
        yield found[0]
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def in_browser(address: str) -> Iterator[Any]:
    """A page of a browser of the system or of playwright; nothing fails or leaves the machine."""
    needs("playwright")
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    problems: list[str] = []
    hosts: set[str] = set()
    with sync_playwright() as tools:
        if chromium is None and not Path(tools.chromium.executable_path).exists():
            assert "CI" not in os.environ, "CI has a browser"
            pytest.skip("no chromium, Chrome or browser of playwright")
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        yield page
        browser.close()
    assert problems == []
    assert {host for host in hosts if not host.startswith("127.0.0.1:")} <= {""}
