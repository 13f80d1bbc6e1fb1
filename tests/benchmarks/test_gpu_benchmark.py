"""`make gpu` runs on a CPU with --tiny."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import nfaug
from nfaug.flows.flow import Flow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """A tiny RGB flow that is fitted to ten classes."""
    mef = nfaug.MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8), low_rank_above=8)
    made = Flow(nfaug.FlowConfig(3, (8, 8), mef))  # low rank as in builtin:rgb32
    made.initialize(torch.rand(16, 3, 8, 8) * 2 - 1)
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(30) % 10)
    return nfaug.fit(made.eval(), data, rank=2, progress=False).save(tmp_path / "flow")


def test_the_report_on_a_cpu(
    flow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu")
    words = ["gpu.py", "--tiny", "--device", "cpu", "--flow", str(flow)]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "report.md")])
    module.main()
    text = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out == text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows.count("train step") == 2
    assert {"no NFA", "plain calls", "torch.compile"} <= {*rows}
    assert "residuals" in rows
    assert "of 8 images come back" in text
    monkeypatch.setattr(sys, "argv", [*words[:1], "--device", "cpu"])
    with pytest.raises(SystemExit):
        module.main()
    assert "--tiny" in capsys.readouterr().err
