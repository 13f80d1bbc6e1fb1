from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import nfaug
from nfaug.data.images import LabelledImages, to_tensors
from nfaug.training import TrainConfig, TrainResult, demo, open_dataset, train
from nfaug.training.config import FlowSettings
from nfaug.training.demo import DemoSettings, run_demo
from nfaug.training.report.plots import embedding_panels
from nfaug.training.run import pictures

TINY = DemoSettings(labels_per_class=(3, 4), seeds=2, flow_steps=2, classifier_steps=2)


class Watched:
    """The images that the demo passed to each function."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.augmented: list[Tensor] = []
        self.classified: list[tuple[Tensor, bool, int]] = []
        self.tested: list[Tensor] = []


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any], Watched]:
    """A minimal demo with a tiny classifier instead of the ResNet."""
    out = tmp_path_factory.mktemp("demo") / "out"
    watched = Watched()

    def small_flow(dataset: LabelledImages, config: TrainConfig, **options: Any) -> TrainResult:
        watched.trained.append(to_tensors(dataset)[0])
        flow = FlowSettings(steps=(1, 1), blocks=(0, 0), width=(4, 4))
        return train(dataset, dataclasses.replace(config, flow=flow), **options)

    def classifier(channels: int, classes: int, *, seed: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, classes))

    def train_classifier(model: nn.Module, images: Tensor, labels: Tensor, **o: Any) -> nn.Module:
        watched.classified.append((images, o["augment"] is not None, o["seed"]))
        if o["augment"] is not None:
            new, same = o["augment"](images, labels)
            assert torch.equal(same, labels)
            watched.augmented.append(new)
        return model

    def accuracy(model: nn.Module, images: Tensor, labels: Tensor, **o: Any) -> float:
        watched.tested.append(images)
        return 0.5 + 0.01 * len(watched.tested)

    def few_points(*args: Any, **options: Any) -> Any:
        return embedding_panels(*args, **options, per_class=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "embedding_panels", few_points)
        patch.setattr(demo, "train", small_flow)
        patch.setattr(demo, "resnet18", classifier)
        patch.setattr(demo, "train_classifier", train_classifier)
        patch.setattr(demo, "accuracy", accuracy)
        result = run_demo(out, TINY, progress=False)
    return out, result, watched


def test_files(ran: tuple[Path, dict[str, Any], Watched]) -> None:
    out, _, _ = ran
    assert sorted(path.name for path in out.iterdir()) == [
        *("convergence.png", "flow", "grid.png", "kl.png", "latents.png", "loss.png"),
        "report.md",
    ]
    for picture in out.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200
    checkpoint = nfaug.load(out / "flow")
    assert checkpoint.config.class_names == tuple("0123456789")
    assert checkpoint.pca is not None
    assert checkpoint.pca.has_memory


def test_the_report(ran: tuple[Path, dict[str, Any], Watched]) -> None:
    out, result, _ = ran
    text = (out / "report.md").read_text()
    linked = set(re.findall(r"\]\((.*?)\)", text))
    assert linked == {path.name for path in out.glob("*.png")}
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row.split("|")[1].strip() for row in rows] == ["3", "4"]
    # 51 and 52, then 53 and 54: the fake accuracies of the first row.
    assert "| 3 | 52.0 ± 1.4 | 53.0 ± 1.4 | +1.0 ± 0.0 |" in rows[0]
    assert result["accuracy"]["3"]["gain_mean"] == pytest.approx(1)
    assert result["accuracy"]["4"]["none_mean"] == pytest.approx(56)
    assert "1442 training and 355 test images" in text
    for promise in ("over 2 seeds", "use only that row's", "once per arm and seed"):
        assert promise in text


def test_each_flow_and_classifier_sees_only_its_images(
    ran: tuple[Path, dict[str, Any], Watched],
) -> None:
    _, _, watched = ran
    digits, _ = to_tensors(open_dataset("digits", split="train"), progress=False)
    whole, *flows = watched.trained
    assert torch.equal(whole, digits)
    assert [len(images) for images in flows] == [30, 30, 40, 40]
    assert not torch.equal(flows[0], flows[1]), "each seed draws its own images"
    # Two classifiers follow each flow, without and with NFA, on the images that it was trained on.
    assert len(watched.classified) == 8
    for number, (images, augmented, seed) in enumerate(watched.classified):
        assert torch.equal(images, flows[number // 2])
        assert augmented == (number % 2 == 1)
        assert seed == number // 2 % 2
    assert any(
        not torch.equal(new, images) for new, images in zip(watched.augmented, flows, strict=True)
    )


def test_test_images_are_used_once_per_arm(ran: tuple[Path, dict[str, Any], Watched]) -> None:
    _, _, watched = ran
    test, _ = to_tensors(open_dataset("digits", split="test"), progress=False)
    assert len(watched.tested) == 8
    assert all(torch.equal(images, test) for images in watched.tested)
    rows = {bytes(image.numpy()) for images in watched.trained for image in images}
    shared = sum(bytes(image.numpy()) in rows for image in test)
    assert shared == 0, "no test image is a training image"


def test_settings() -> None:
    whole, quick = DemoSettings(), DemoSettings.quick()
    assert whole.labels_per_class == (10, 50)
    assert whole.seeds >= 3
    assert quick.flow_steps < whole.flow_steps
    for images in (100, 500, 1442):
        config = demo._flow_config(whole, images, seed=1)
        assert config.seed == 1
        assert config.epochs * images >= whole.flow_steps * config.batch_size * 0.7
        assert config.pca.rank <= images // 10 - 1, "a class has more images than axes"
