"""A few cases of every attack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attacks.py"


@pytest.mark.parametrize(
    ("attack", "count"),
    [
        ("checkpoints", 14),
        pytest.param("kills", 4, marks=pytest.mark.soak),
        pytest.param("pickles", 40, marks=pytest.mark.soak),
    ],
)
def test_no_case_fails(attack: str, count: int) -> None:
    words = [sys.executable, SCRIPT, attack, f"--count={count}"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    counts = [int(line.split("|")[2]) for line in ran.stdout.splitlines()[2:]]
    assert sum(counts) == count
