"""A few cases of every attack, and all of them in the long checks."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = ("images", "layouts", "checkpoints", "banks", "settings")


@pytest.mark.parametrize("name", KINDS)
def test_a_case_of_each_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which is put back as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    attack = importlib.import_module(f"benchmarks.hostile.{name}")
    monkeypatch.setattr(attack, "WARM", 0)
    attack.prepare(tmp_path)
    outcomes = {attack.case(tmp_path, number) for number in range(len(attack.KINDS))}
    assert {text.partition(":")[0] for text in outcomes} == {k.__name__ for k in attack.KINDS}


@pytest.mark.soak
@pytest.mark.parametrize("name", [*KINDS, "pickles", "kills"])
def test_every_case(name: str) -> None:
    words = [sys.executable, BENCHMARKS / "attacks.py", name]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert "failures: 0 of" in ran.stdout
