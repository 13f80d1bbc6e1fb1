"""Tests compare with the CPU's figures: their settings must not choose a GPU that is visible."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import ranks
from tools.nfa import NAMES, TensorImages, batch_of, checkpoint, images_of

import nfaug
from nfaug.compare import CompareConfig, compare
from nfaug.run.device import pick_device
from nfaug.training import TrainConfig, train

TESTS = Path(__file__).parents[1]
CONFIGS = ("TrainConfig", "CompareConfig")
TRAINED = {"epochs", "steps", "seeds"}  # settings of what is trained
NO_CUDA = (AssertionError, RuntimeError)  # what torch raises for a GPU that is not there


@pytest.fixture(autouse=True)
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that "auto" chooses, and on which nothing can be computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "empty", _refused(torch.empty))
    monkeypatch.setattr(torch.Tensor, "to", _refused(torch.Tensor.to))
    monkeypatch.setattr(torch.nn.Module, "to", _refused(torch.nn.Module.to))
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def _refused(function: Any) -> Any:
    """The function, which raises as torch without CUDA does; also where there is a real GPU."""

    def call(*args: Any, **options: Any) -> Any:
        for value in (*args, *options.values()):
            if isinstance(value, (str, torch.device)) and str(value).startswith("cuda"):
                raise AssertionError("Torch not compiled with CUDA enabled")
        return function(*args, **options)

    return call


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of settings that say what is trained."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = {keyword.arg for keyword in node.keywords}
            if node.func.id in CONFIGS and names & TRAINED:
                yield node


def unnamed(source: str) -> list[int]:
    """The lines of those that do not name a device."""
    lines = []
    for call in calls(ast.parse(source)):
        names = {keyword.arg for keyword in call.keywords}
        if not names & {"device", None}:  # None stands for **settings
            lines.append(call.lineno)
    return lines


def test_what_is_found() -> None:
    assert unnamed("x = 1\nTrainConfig(epochs=2)\nTrainConfig(lr=1)\nCompareConfig(steps=1)") == [
        2,
        4,
    ]
    assert unnamed("TrainConfig(epochs=2, device='cpu')\nCompareConfig(**settings)") == []


def test_settings_of_all_tests_name_their_device() -> None:
    found = []
    for file in sorted(TESTS.rglob("*.py")):
        for line in unnamed(file.read_text(encoding="utf-8")):
            found.append(f"{file.relative_to(TESTS)}:{line}")
    assert found == [], "these would train on a GPU that is visible"


def test_settings_that_tests_share(tiny_config: TrainConfig) -> None:
    for config in (tiny_config, ranks.CONFIG):
        assert pick_device(config.device).type == "cpu"


def test_a_training_run_stays_on_the_cpu(
    tiny_images: TensorImages, tiny_config: TrainConfig
) -> None:
    result = train(tiny_images, config=tiny_config, progress=False)
    assert result.checkpoint.flow.device.type == "cpu"
    unnamed = dataclasses.replace(tiny_config, device="auto")
    with pytest.raises(NO_CUDA, match="CUDA"):  # so this would have been noticed
        train(tiny_images, config=unnamed, progress=False)


def test_a_comparison_stays_on_the_cpu(tmp_path: Path) -> None:
    labels = torch.arange(72) % 3
    images = TensorImages(images_of(labels), labels, NAMES)
    config = CompareConfig(per_class=2, seeds=3, steps=1, methods="none,nfa", device="cpu")
    assert compare(images, tmp_path / "cpu", config=config, progress=False).seeds == [0, 1, 2]
    unnamed = dataclasses.replace(config, device="auto")
    with pytest.raises(NO_CUDA, match="CUDA"):
        compare(images, tmp_path / "auto", config=unnamed, progress=False)


def test_augmentation_stays_where_the_images_are() -> None:
    images, labels = batch_of(12)
    new, _ = nfaug.NFAugment(checkpoint(), p=1.0)(images, labels)
    assert new.device.type == "cpu"
    assert not torch.equal(new, images)
