"""The verbs about the flow itself: convert, and eval --invertibility."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_cli_sharing import run
from test_convert import golden, released, save

import nfaug
from nfaug.commands.train import expand


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = save(released(), tmp_path), tmp_path / "flow"
    code, made, _ = run(capsys, "convert", str(file), "--out", str(out))
    assert code == 0
    assert made["epoch"] == 12
    checkpoint = nfaug.load(out)
    _, figures = golden("rgb16")
    z, _ = checkpoint.flow.encode(figures["image"], figures["noise"])
    assert (z - figures["z"]).abs().max() < 1e-5 * figures["z"].abs().max()

    code, _, error = run(capsys, "convert", str(file), "--out", str(out))
    assert code == 2
    assert "not empty" in error
    code, _, error = run(
        capsys, "convert", str(file), "--out", str(tmp_path / "b"), "--class-names", "[cat, dog]"
    )
    assert code == 2
    assert "--class-names gives 2" in error


def test_eval_invertibility(
    tiny_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--flow", str(tiny_path), "--data", str(tiny_folder), "--split", "train"]
    code, report, _ = run(capsys, *words, "--invertibility", "--other-data", str(tiny_folder))
    assert code == 0
    sets = {"images", str(tiny_folder), "noise", "black", "white", "single_pixel", "inverted"}
    assert sets <= set(report)
    assert report["images"]["exact"] == 1
    assert report["images"]["non_finite"] == 0
    assert report["batch"]["changed"] == 0
    assert torch.tensor(report["mixed"]["max"]).isfinite()


def test_options_of_train_may_have_hyphens() -> None:
    words = ["--max-minutes", "3", "--batch-size=4", "--out", "my-flow", "--dataset.per-class", "2"]
    assert expand(words) == [
        "--max_minutes", "3", "--batch_size=4", "--out", "my-flow", "--dataset.per_class", "2"
    ]  # fmt: skip
