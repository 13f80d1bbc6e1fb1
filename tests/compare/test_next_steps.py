"""What a comparison prints to paste and to run: every form of it runs."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tools.nfa import TensorImages, batch_of, images_of, write_images

from nfaug.commands.compare import parser
from nfaug.compare import CompareConfig, read_images
from nfaug.compare.methods import METHODS, PIXELS, Method
from nfaug.compare.next_steps import command_at, example_command, paste

TRAINED = [name for name in METHODS if name != "frozen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `data` of images of three classes, and weights."""
    folder = tmp_path_factory.mktemp("here")
    write_images(folder / "data", 32, train=8, val=4)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "w.safetensors")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_lines_to_paste(name: str) -> None:
    labels = torch.arange(24) % 3
    dataset = TensorImages(images_of(labels), labels, ("a", "b", "c"))
    config = CompareConfig(per_class=4, p=0.25)
    code = "\n".join(paste(METHODS[name], config, read_images(dataset, config=config)))
    batch, classes = batch_of(8)
    scope: dict[str, Any] = {"dataset": dataset, "batch": batch, "labels": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes of few images
        exec(compile(code, "pasted", "exec"), scope)
    assert scope["batch"].shape == batch.shape
    assert bool(code) == (name != "none")
    if METHODS[name].flow:
        assert scope["nfa"].p == 0.25
        assert scope["nfa"].stats()["seen"] == 8
    if name == "mixup":
        assert scope["labels"].shape == (8, 3)


@pytest.mark.parametrize(
    ("per_class", "network", "channels"),
    [(4, "test_resnet", 3), (1, "test_resnet", 3), (4, "test_resnet", 1), (4, "test_vit", 3)],
)
def test_lines_to_paste_for_frozen_features(
    per_class: int, network: str, channels: int, tmp_path: Path
) -> None:
    labels = torch.arange(24) % 3
    pixels = images_of(labels, size=(64, 64))[:, :channels]
    dataset = TensorImages(pixels, labels, ("a", "b", "c"))
    weights = str(tmp_path / "w.safetensors")
    save_file(timm.create_model(network).state_dict(), weights)
    config = CompareConfig(network=network, weights=weights, per_class=per_class)
    lines = paste(Method(frozen=True), config, read_images(dataset, config=config))
    random = np.random.default_rng(0)
    scope = {"features": random.standard_normal((12, 8)), "labels": np.arange(12) % 3}
    assert ("GridSearchCV(" in "\n".join(lines)) == (per_class > 1)
    exec(compile("\n".join(lines), "pasted", "exec"), scope)
    image = Image.new("RGB" if channels == 3 else "L", (40, 30))
    batch = scope["transform"](image)[None]  # type: ignore[operator]
    assert batch.shape[1:] == (channels, 160, 160)
    assert scope["network"].eval()(batch).ndim == 2  # type: ignore[attr-defined]
    assert scope["scale"] == scope["features"].std()  # type: ignore[attr-defined]
    scope["new_features"] = scope["features"]
    (others,) = [line for line in lines if line.startswith("# model.predict")]
    guesses = eval(others.removeprefix("# ").removesuffix(" classifies others"), scope)
    assert guesses.shape == (12,)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["none", "mixup", "nfa+randaugment"])
def test_the_example(
    name: str,
    pretrained: bool,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runpy

    network = {"network": "test_resnet", "weights": "w.safetensors"} if pretrained else {}
    config = CompareConfig(methods=name, per_class=4, steps=2, augment="flip,crop", **network)
    (method,) = config.table()
    command = example_command(method, config, "data", {"test_data": None}, (32, 16))
    program, script, *words = shlex.split(command)
    assert program == "python"
    monkeypatch.setattr("sys.argv", [script, *words])
    root = Path(__file__).resolve().parents[2]
    runpy.run_path(str(root / script), run_name="__main__")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("accuracy on 12 images: ")
    assert said.count("%") == 1 + (name != "none")


def test_frozen_features_have_no_example(here: Path) -> None:
    config = CompareConfig(network="test_resnet", weights="w.safetensors")
    assert example_command(Method(frozen=True), config, "data", {}, (32, 32)) == ""


def test_the_flow_of_a_method_is_that_of_the_lines(here: Path) -> None:
    method = Method("builtin:rgb32", "randaugment")
    read = {"test_data": "other", "on_error": "skip", "data_dir": None, "download": True}
    config = CompareConfig(p=0.25, test_images=50, steps=10**6, device="cpu")
    command = example_command(method, config, "data", read, (32, 32))
    assert "--test-data other --on-error skip --download " in command
    assert "--test-images 50 --steps 1000000" in command
    assert "--method nfa+randaugment " in command
    assert "--checkpoint builtin:rgb32 --p 0.25" in command
    assert PIXELS not in command


def test_the_command_at_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has every setting, and goes to a folder of its own."""
    config = CompareConfig(
        checkpoint=("my flow",),
        methods="none,nfa",
        augment="",
        per_class=4,
        seeds=5,
        steps=9,
        device="cpu",
    )
    read = {"test_data": "other", "channels": 3, "on_error": "raise", "download": False}
    program, verb, *words = shlex.split(command_at(160, config, "my data", read))
    assert (program, verb) == ("nfaug", "compare")
    parsed = parser().parse_args(words)
    for field in fields(CompareConfig):
        assert parsed[field.name] in (getattr(config, field.name), ["my flow"])
    assert parsed.image_size == (160, 160)
    assert (parsed.data, parsed.test_data, parsed.out) == ("my data", "other", "nfaug-compare-160")
