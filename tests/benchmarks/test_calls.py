"""benchmarks/calls.py: the time of a call, and that of another checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nfaug
from benchmarks.calls import NFA, Case, job_of, main

HERE = Path(nfaug.__file__).resolve().parents[2]


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tiny", "--types", "uint8", "--rows", "axis", "rgb32", "RandAugment", "MixUp"]
    main([*words, "--before", str(HERE)])
    _, first, *lines = capsys.readouterr().out.splitlines()
    assert first == "| ms an image (x RandAugment) | 16 px |"
    figure = r"[\d.]+"
    for line, name in zip(lines[1:5], ("axis, p=0.5", "axis, p=1", "rgb32, p=0.5"), strict=False):
        assert re.fullmatch(rf"\| NFA {name}, uint8, batch 2 \| {figure} \(x {figure}\) \|", line)
    assert re.fullmatch(rf"\| RandAugment, uint8, batch 2 \| {figure} \(x 1.00\) \|", lines[5])
    assert not any("MixUp" in line for line in lines), "which refuses uint8"
    last = lines[-4:]
    assert len([line for line in last if "->" in line]) == 4


@pytest.mark.parametrize("row", NFA)
def test_a_row_of_nfa_changes_images(row: str) -> None:
    job = job_of(Case(row, 16, "float32", 4, 1.0))
    assert job is not None
    images, _ = job()
    assert images.shape == (4, 3, 16, 16)


def test_another_checkout_must_be_one(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "benchmarks" / "calls.py"), "--tiny", "--rows", "axis"]
    ran = subprocess.run([*command, "--before", str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "--before must be a checkout with src/nfaug" in ran.stderr
