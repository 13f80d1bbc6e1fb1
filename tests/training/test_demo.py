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
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.training import TrainConfig, TrainResult, open_dataset, train
from nfaug.training.config import FlowSettings
from nfaug.training.demo import DemoSettings, comparison, pipeline, run_demo
from nfaug.training.demo.comparison import ARMS, shifted
from nfaug.training.demo.report import report
from nfaug.training.report.plots import embedding_panels
from nfaug.training.run import pictures

TINY = DemoSettings(labels_per_class=(3, 4), seeds=2, flow_steps=2, classifier_steps=2, variants=3)


class Watched:
    """The images that the demo passed to each function."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.kinds: list[str] = []
        self.drawn: list[tuple[Tensor, Tensor, int]] = []  # labels, a batch of all images, seed
        self.weights: list[Tensor] = []
        self.flows: list[str] = []
        self.tested: list[Tensor] = []


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any], Watched]:
    """A minimal demo whose classifiers are not trained."""
    out = tmp_path_factory.mktemp("demo") / "out"
    watched = Watched()

    def small_flow(dataset: LabelledImages, config: TrainConfig, **options: Any) -> TrainResult:
        watched.trained.append(to_tensors(dataset)[0])
        watched.kinds.append(config.prior.kind)
        flow = FlowSettings(steps=(1, 1), blocks=(0, 0), width=(4, 4))
        return train(dataset, dataclasses.replace(config, flow=flow), **options)

    def train_classifier(model: nn.Module, draw: Any, labels: Tensor, **o: Any) -> nn.Module:
        watched.drawn.append((labels, draw(torch.arange(len(labels))), o["seed"]))
        watched.weights.append(next(model.parameters()).detach().clone())
        return model

    def fit(flow: Any, *args: Any, **options: Any) -> Any:
        watched.flows.append(flow if isinstance(flow, str) else "flow")
        return nfaug.fit(flow, *args, **options)

    def accuracy(model: nn.Module, images: Tensor, labels: Tensor, **o: Any) -> float:
        watched.tested.append(images)
        return 0.5 + 0.01 * (len(watched.tested) - 1)

    def few_points(*args: Any, **options: Any) -> Any:
        return embedding_panels(*args, **options, per_class=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "embedding_panels", few_points)
        patch.setattr(pipeline, "train", small_flow)
        patch.setattr(comparison, "train_classifier", train_classifier)
        patch.setattr(comparison, "accuracy", accuracy)
        patch.setattr(comparison, "fit", fit)
        result = run_demo(out, TINY, progress=False)
    return out, result, watched


def test_files(ran: tuple[Path, dict[str, Any], Watched]) -> None:
    out, _, _ = ran
    assert sorted(path.name for path in out.iterdir()) == [
        *("colour.png", "convergence.png", "flow", "gains.png", "grid.png", "kl.png"),
        *("latents.png", "loss.png", "report.md"),
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
    rows = [line for line in text.splitlines() if line.startswith("| N") or line.startswith("| no")]
    # The fake accuracies are 50, 51, 52, ... in the order of the arms, seeds and numbers of labels.
    assert rows[0] == "| no augmentation | 53.0 | 65.0 |"
    assert "| NFA with the flow | 55.0 (+2.0 ± 0.0) | 67.0 (+2.0 ± 0.0) |" in rows
    assert result["accuracy"]["3"]["none"] == pytest.approx(53)
    assert result["gain"]["4"]["flow"]["mean"] == pytest.approx(2)
    assert "NFA with the flow changed accuracy by **+2.0 ± 0.0** points by itself" in text
    assert "1442 training and 355 test images" in text
    for promise in ("over 2 seeds", "without labels", "labelled images alone", "Nothing was tuned"):
        assert promise in text


def test_a_gain_that_may_be_zero_is_said_to_be_so() -> None:
    scores = {5: [dict.fromkeys(ARMS, 50.0) | {"flow": 50.0 + gain} for gain in (-1, 1, 3)]}
    text = report({"seconds": 1.0}, scores, train_size=9, test_size=9, p=0.5, steps=1)
    assert (
        "changed accuracy by **+1.0 ± 5.0** points (the interval includes zero) by itself" in text
    )


def test_the_flow_sees_no_label_and_the_classifiers_their_images(
    ran: tuple[Path, dict[str, Any], Watched],
) -> None:
    _, _, watched = ran
    digits = open_dataset("digits", split="train")
    (trained,) = watched.trained
    assert torch.equal(trained, to_tensors(digits, progress=False)[0])
    assert watched.kinds == ["single"]
    assert len(watched.drawn) == 2 * 2 * len(ARMS)
    for number, (labels, batch, seed) in enumerate(watched.drawn):
        cell, arm = divmod(number, len(ARMS))
        assert seed == cell % 2
        few, _ = split_per_class(digits, TINY.labels_per_class[cell // 2], seed)
        images, expected = to_tensors(few, progress=False)
        assert torch.equal(labels, expected)
        assert torch.equal(batch, images) == (list(ARMS)[arm] == "none")
        assert torch.equal(watched.weights[number], watched.weights[cell * len(ARMS)])
    assert watched.flows == ["flow", "builtin:pixels"] * 4


def test_variants_replace_a_share_of_the_images() -> None:
    images = torch.zeros(200, 1, 2, 2, dtype=torch.uint8)
    bank = torch.stack([images + 1, images + 2], 1)
    rows = torch.arange(200).flip(0)
    for p in (0.0, 0.3, 1.0):
        batch = comparison._draw(ARMS["flow"], images, bank, p, 0)(rows)
        values = batch[:, 0, 0, 0]
        assert (values > 0).float().mean() == pytest.approx(p, abs=0.08)
        assert not p or set(values.tolist()) >= {1, 2}


def test_shifts_move_an_image_by_a_pixel() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[..., 2, 2] = 9
    found = shifted(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    places = {tuple(place[1:]) for place in found[:, 0].nonzero().tolist()}
    assert places == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


def test_test_images_are_used_once_per_arm(ran: tuple[Path, dict[str, Any], Watched]) -> None:
    _, _, watched = ran
    test, _ = to_tensors(open_dataset("digits", split="test"), progress=False)
    assert len(watched.tested) == 2 * 2 * len(ARMS)
    assert all(torch.equal(images, test) for images in watched.tested)
    rows = {bytes(image.numpy()) for images in watched.trained for image in images}
    shared = sum(bytes(image.numpy()) in rows for image in test)
    assert shared == 0, "no test image is a training image"


def test_settings() -> None:
    whole, quick = DemoSettings(), DemoSettings.quick()
    assert whole.seeds >= 10, "three seeds showed nothing"
    assert quick.flow_steps < whole.flow_steps
    config = pipeline._flow_config(whole, 1442)
    assert config.epochs * 1442 >= whole.flow_steps * config.batch_size * 0.7
