"""Every documented way of starting a benchmark, a study or an attack works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.forked import run_python

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "benchmarks", ROOT / "lab")
ATTACKS = ROOT / "tests/hostile/attacks.py"
START = re.compile(r"python3? (-m benchmarks[\w.]*|(?:benchmarks|lab|tests/hostile)/[\w/]+\.py)")


def documented() -> list[str]:
    """What follows `python` in the documentation, and in docstrings of what is started."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ATTACKS]
    files += (ROOT / "docs").rglob("*.md")
    for folder in FOLDERS:
        files += [folder / "README.md", *folder.rglob("*.py")]
    found: set[str] = set()
    for file in files:
        found.update(START.findall(file.read_text(encoding="utf-8")))
    return sorted(found)


@pytest.mark.parametrize("start", documented())
def test_a_documented_start(start: str) -> None:
    ran = run_python([*start.split(), "--help"], cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout


def test_each_script_says_how_it_is_started() -> None:
    started = documented()
    for folder in FOLDERS:
        scripts = [file for file in folder.glob("*.py") if "__main__" in file.read_text("utf-8")]
        assert len(scripts) > 7
        for script in scripts:
            assert f"{folder.name}/{script.name}" in started, script.name
