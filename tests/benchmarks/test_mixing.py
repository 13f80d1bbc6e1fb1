"""What mixing does: the table of `benchmarks/mixing.py` on tiny images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nfa_tools import CLASSES

from benchmarks import mixing
from benchmarks.study import data
from benchmarks.study.data import DataSet
from benchmarks.study.judge import trained_judge

pytestmark = pytest.mark.soak


def test_a_row_for_each_arm(
    source: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(data.DATASETS, "tiny", source)
    monkeypatch.setattr(mixing, "training_images", data.training_images)
    arms = ["builtin:pixels alpha=1 strength=1.5 gate=off", "builtin:pixels strength=0 gate=off"]
    options = ["--name", "tiny", "--work", str(tmp_path), "--minutes", "0.02", "--per-class", "6"]
    table, plot = tmp_path / "mixing.md", tmp_path / "mixing.png"
    mixing.main([*options, "--arms", *arms, "--markdown", str(table), "--plot", str(plot)])
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if "pixels |" in line
    ]
    assert len(rows) == len(arms)
    assert float(rows[0][3]) > 0
    assert float(rows[0][7].strip("| ")) > 0
    assert float(rows[1][3]) == 0, "nothing changes at strength 0"
    assert table.read_text().count("pixels |") == 2
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_the_judge_is_trained_once(source: DataSet, tmp_path: Path) -> None:
    images = data.training_images(source)
    first = trained_judge(images, tmp_path / "judge.safetensors", minutes=0.02)
    again = trained_judge(images, tmp_path / "judge.safetensors", minutes=9)
    batch = torch.randn(4, 1, 8, 8)
    assert first(batch).shape == (4, CLASSES)
    assert torch.equal(first(batch), again(batch))


def test_the_judge_sees_no_validation_image(source: DataSet) -> None:
    everything, held = data.training_images(source), data.held_out(source, "validation")
    rest = mixing.without(everything, held.images)
    assert len(rest) == len(everything) - len(held.images)
    kept = {image.numpy().tobytes() for image in rest.images}
    assert not kept & {image.numpy().tobytes() for image in held.images}
