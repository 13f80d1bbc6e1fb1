"""The table of `benchmarks/golden.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.golden import errors, main, read

FILE = Path(__file__).parents[1] / "golden" / "mef_attention16.safetensors"


def test_two_rows_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(FILE)])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["to train", "frozen"]
    assert all(float(row[2]) < 1e-5 for row in rows)


def test_another_flow_is_far() -> None:
    flow, figures = read(FILE)
    with torch.no_grad():
        flow.blocks[0][0].actnorm.shift.add_(0.1)
    z, _, values, other, worst, far = errors(flow, figures)
    assert z > 1e-3
    assert values == 2 * figures["image"].numel()
    assert far > values / 2
    assert other >= far
    assert worst > 1
