"""Settings of `nfaug train`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

import nfaug
from nfaug.cli import main

SETTINGS = (
    "{pictures: false, trackers: [], epochs: 1, batch_size: 12, pca: {rank: 3}, "
    "flow: {steps: [1, 1], blocks: [1, 1], width: [8, 8]}, "
    "prior: {fixed_point: {kld_weight: 20}}}"
)


def test_aliases_in_a_file_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight lines stand for 43 million values."""
    laughs = "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    file = tmp_path / "settings.yaml"
    file.write_text(f"a: &a [x, x, x, x, x, x, x, x, x]\n{laughs}")
    before = time.process_time()
    words = ["train", "--data", "digits", "--out", str(tmp_path / "run"), "-c", str(file)]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "aliases" in capsys.readouterr().err
    assert time.process_time() - before < 5


def test_an_image_size(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs of another size; the settings that are saved hold the size."""
    file, out = tmp_path / "settings.yaml", tmp_path / "run"
    file.write_text(SETTINGS)
    words = ["train", "--data", str(tiny_folder), "--out", str(out), "-c", str(file), "--json"]
    assert main([*words, "--image-size", "16,12"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert nfaug.load(out).flow.config.image_size == (16, 12)
    assert yaml.safe_load((out / "train.yaml").read_text())["dataset"]["image_size"] == [16, 12]
    assert main(["train", "--resume", str(out), "--epochs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
