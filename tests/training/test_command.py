"""Settings of `nfaug train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tools.nfa import write_images

import nfaug
from nfaug.cli import main

SETTINGS = (
    "{device: cpu, pictures_every: 0, tensorboard: false, epochs: 1, batch_size: 12, "
    "pca: {rank: 3}, "
    "flow: {steps: [1, 1], blocks: [1, 1], width: [8, 8]}, "
    "prior: {fixed_point: {kld_weight: 20}}}"
)


def test_image_size(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_images_are_read_as_a_flow_that_is_trained_further_takes_them(
    tmp_path: Path, tiny_folder: Path, tiny_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Color images of another size, by a flow of gray ones of 8 x 8; a resumed run has the same."""
    file, out = tmp_path / "settings.yaml", tmp_path / "run"
    file.write_text(SETTINGS)
    data = str(write_images(tmp_path, 20, photos=8) / "photos")
    words = ["train", "--data", data, "--out", str(out), "-c", str(file)]
    assert main([*words, "--checkpoint", str(tiny_path)]) == 0, capsys.readouterr().err
    config = nfaug.load(out).flow.config
    assert (config.channels, config.image_size) == (1, (8, 8))
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 0, capsys.readouterr().err
    assert main([*words[:3], "--out", str(tmp_path / "a"), "--checkpoint", "builtin:pixels"]) == 2
    assert "no parameters" in capsys.readouterr().err


def test_self_attention_is_trained(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last layer starts at zero, and the training moves it."""
    file, out = tmp_path / "settings.yaml", tmp_path / "run"
    file.write_text(SETTINGS)
    words = ["train", "--data", str(tiny_folder), "--out", str(out), "-c", str(file)]
    assert main([*words, "--flow.attention-heads", "2"]) == 0, capsys.readouterr().err
    checkpoint = nfaug.load(out)
    assert checkpoint.flow.config.backbone.attention_heads == 2
    last = [w for k, w in checkpoint.flow.state_dict().items() if k.endswith("proj_out.weight")]
    assert len(last) == 2
    assert all(weight.any() for weight in last)


def test_an_unfinished_and_a_finished_run_say_so(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(SETTINGS)
    out = tmp_path / "run"
    words = ["train", "--data", str(tiny_folder), "--out", str(out), "-c", str(file)]
    assert main(words) == 0
    finished = (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", str(out)]) == 0
    error = capsys.readouterr().err
    assert "training had finished" in error
    assert (out / "model.safetensors").read_bytes() == finished
    assert main(["train", "--resume", str(out), "--epochs", "2"]) == 0
    assert "finished" not in capsys.readouterr().err
    (out / "config.json").unlink()  # as it is before the end
    preview = ["preview", "--data", str(tiny_folder), "--out", str(tmp_path / "grid.png")]
    for command in (["info", str(out)], [*preview, "--checkpoint", str(out)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "unfinished run" in error
        assert f"--resume {out}" in error
