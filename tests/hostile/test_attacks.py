"""All cases of every attack, in the long checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ("images", "layouts", "checkpoints", "banks", "settings", "pickles", "kills")


@pytest.mark.soak
@pytest.mark.parametrize("name", KINDS)
def test_every_case(name: str) -> None:
    words = [sys.executable, Path(__file__).with_name("attacks.py"), name]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert "failures: 0 of" in ran.stdout
