"""Every documented way of starting a benchmark works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import run_python

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
START = re.compile(r"python3? (-m benchmarks[\w.]*|benchmarks/[\w/]+\.py)")
EARLIER = "## With commands of an earlier version"  # a heading of results/README.md


def documented() -> list[str]:
    """What follows `python` in the documentation and in the benchmarks' own."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    files += [*(ROOT / "docs").rglob("*.md"), *BENCHMARKS.rglob("*.py")]
    files += [BENCHMARKS / "README.md", BENCHMARKS / "results" / "README.md"]
    found: set[str] = set()
    for file in files:
        text, _, _ = file.read_text(encoding="utf-8").partition(EARLIER)
        found.update(START.findall(text))
    return sorted(found)


@pytest.mark.parametrize("start", documented())
def test_a_documented_start(start: str) -> None:
    ran = run_python([*start.split(), "--help"], cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout


def test_each_benchmark_says_how_it_is_started() -> None:
    scripts = [file for file in BENCHMARKS.glob("*.py") if "__main__" in file.read_text("utf-8")]
    assert len(scripts) > 20
    for script in scripts:
        assert f"benchmarks/{script.name}" in documented(), script.name
