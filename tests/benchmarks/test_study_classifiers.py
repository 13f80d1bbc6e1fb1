"""The networks, losses and augmentations of the study, and its training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import images_of
from study_tools import CELL, ROW
from torch import Tensor

from benchmarks.study import bases, bf16, cells, classifiers, data, isda, run
from benchmarks.study.cells import Cell


@pytest.mark.parametrize(
    "base",
    [
        "flip+crop:1",
        "randaugment:1:3",
        "trivialaugment@0.9",
        "shift:2",
        "flip+crop+mixup:0.2",
        "cutmix",
        "cutmix:1@0.01",
        "isda:0.5",
    ],
)
def test_bases(base: str) -> None:
    images, labels = images_of(torch.arange(9) % 3, channels=1), torch.arange(9) % 3
    torch.manual_seed(0)  # RandAugment draws from the global generator
    changed, targets = bases.apply_base(images, labels, base, 3, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert targets.shape == ((9, 3) if "mix" in base else (9,))
    assert torch.equal(changed, images) == (base in ("isda:0.5", "cutmix:1@0.01"))


def test_a_probability_of_a_base_is_that_of_an_image() -> None:
    images, labels = images_of(torch.arange(400) % 3, channels=1), torch.arange(400) % 3
    draws = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    changed, _ = bases.apply_base(images, labels, "randaugment:2:9@0.5", 3, draws)
    share = (changed != images).flatten(1).any(1).float().mean()
    assert 0.3 < share < 0.5, "some operations leave an image as it is"


@pytest.mark.parametrize(
    ("base", "wrong"),
    [
        ("flip+crop+turn", "turn"),
        ("crop", "flip"),
        ("flip+crop:2@0.5", "probability"),
        ("isda:1+consistency:12", "several losses"),
        ("isda", "isda:0.5"),
        ("randaugment@50", "probability"),
    ],
)
def test_unknown_bases(base: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        bases.base_parts(base)


def test_a_consistency_loss_sees_the_image_and_what_the_arm_makes_of_it() -> None:
    images, labels = images_of(torch.arange(6) % 3, channels=1), torch.arange(6) % 3
    seen = []

    class Watch(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    model = Watch(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    before = model[1].weight.clone()
    classifiers.train_classifier(
        model,
        lambda rows, *_: 255 - images[rows],
        "consistency:12",
        labels,
        steps=1,
        seed=0,
        network="small-cnn:0.1:0:6",
        images=images,
    )
    (batch,) = seen
    first, second = batch.chunk(2)
    assert torch.allclose(first, -second, atol=1e-5), (
        "the second view of each image is its negative"
    )
    assert sorted(first.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted(classifiers.prepared(images).sum((1, 2, 3)).tolist()), abs=1e-4
    )
    assert not torch.equal(model[1].weight, before)


def test_networks_take_other_settings() -> None:
    assert classifiers.network_of("resnet18:0.02:1e-3:32").batch == 32
    assert classifiers.network_of("resnet18:0.02").weight_decay == 5e-3
    wrongs = ("resnet99", "resnet18:1:2:3:4", "resnet18:x", "resnet18:nan", "resnet18:1:0:-3")
    for wrong in wrongs:
        with pytest.raises(ValueError, match=wrong):
            classifiers.network_of(wrong)


@pytest.mark.parametrize("base", ["flip+crop", "flip+crop+randaugment:1:9", "flip+crop+mixup:1"])
def test_arms_of_a_seed_see_the_same_rows_in_the_same_order(
    base: str, source: data.DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "WIDTHS", (4, 4, 4))
    few = data.labelled(source, 6, seed=0)

    def rows_seen(base: str, numbers: int, seed: int = 3) -> list[list[int]]:
        """Rows of six steps whose arm takes `numbers` random numbers of each of its two sources."""
        seen = []

        def draw(rows: torch.Tensor, draws: torch.Generator, done: float) -> torch.Tensor:
            torch.rand(numbers, generator=draws)
            torch.rand(numbers)
            seen.append(rows.tolist())
            return few.images[rows]

        model = classifiers.new_classifier(1, len(few.classes), seed)
        classifiers.train_classifier(
            model,
            draw,
            base,
            few.targets,
            steps=6,
            seed=seed,
            network="small-cnn:0.1:0:5",
        )
        return seen

    assert rows_seen("none", 0) == rows_seen(base, 7)
    assert rows_seen("none", 0) != rows_seen("none", 0, seed=4)


def test_arms_of_a_seed_start_from_the_same_weights() -> None:
    one = classifiers.new_classifier(1, 3, 5).state_dict()
    torch.rand(9)
    again, other = (classifiers.new_classifier(1, 3, seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_accuracy_weighs_classes_alike() -> None:
    class First(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), -1)

    labels = torch.tensor([0, 0, 0, 1])
    held = data.Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels)
    assert classifiers.accuracy(First(), held) == 50


def test_a_failed_cell_loses_no_other(
    source: data.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result(cell: Cell, *_: Any) -> dict[str, Any]:
        if cell.seed == 1:
            raise OSError("disk")
        return ROW

    monkeypatch.setattr(run, "run_cell", result)
    monkeypatch.setattr(
        run.concurrent.futures,
        "ProcessPoolExecutor",
        lambda jobs, mp_context: run.concurrent.futures.ThreadPoolExecutor(jobs),
    )
    wanted = [replace(CELL, seed=seed) for seed in (0, 1, 2)]
    with pytest.raises(RuntimeError, match="1 cells failed"):
        run.run(wanted, source, csv=tmp_path / "study.csv", work=tmp_path, jobs=2)
    assert {cell.seed for cell in cells.read(tmp_path / "study.csv")} == {0, 2}


def test_isda_bounds_the_loss_of_noisy_features() -> None:
    draws = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(4, 3)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 4, generator=draws) @ torch.randn(4, 4, generator=draws)
    rival = isda.ISDA(head, strength=0.8)
    plain = torch.nn.functional.cross_entropy(head(features), labels)
    for part in (slice(0, 100), slice(100, 300)):
        assert torch.isfinite(rival(features[part], labels[part], 0.0))
    own = features[labels == 1]
    assert torch.allclose(rival.covariance[1], torch.cov(own.T, correction=0), atol=1e-4)
    rival.update = lambda *_: None  # type: ignore[method-assign]  # the covariance is known
    assert torch.allclose(rival(features, labels, 0.0), plain)
    half = torch.linalg.cholesky(0.4 * rival.covariance)
    noise = torch.randn(500, 300, 4, 1, generator=draws)
    noisy = features + (half[labels] @ noise)[..., 0]
    expected = torch.nn.functional.cross_entropy(head(noisy).flatten(0, 1), labels.repeat(500))
    bound = rival(features, labels, 0.5)
    assert expected < bound < expected + 1


@pytest.mark.parametrize("network", list(classifiers.NETWORKS))
def test_a_network_is_trained_on_its_features(network: str) -> None:
    images, labels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6) % 3
    model = classifiers.new_classifier(3, 3, 0, network)
    features, head = classifiers._head(model)
    model.eval()
    with torch.no_grad():
        x = classifiers.prepared(images)
        assert torch.allclose(head(features(x)), model(x), atol=1e-5)
        before = head.weight.clone()
    classifiers.train_classifier(
        model, lambda rows, *_: images[rows], "isda:0.5", labels, steps=1, seed=0, network=network
    )
    assert not torch.equal(head.weight, before)


class Attention(torch.nn.Module):
    """A linear layer, and its outputs attending to themselves, fused or with matrix products."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(12, 16)
        self.fused = fused

    def forward(self, images: Tensor) -> Tensor:
        x = self.linear(images)
        if self.fused:
            every = torch.ones(12, 12, dtype=torch.bool)
            return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=every)
        return torch.matmul((x @ x.transpose(-1, -2) / 4).softmax(-1), x)


PRODUCTS = {
    "conv": lambda: torch.nn.Conv2d(3, 8, 3, padding=1),
    "stride": lambda: torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
    "attention": lambda: Attention(fused=False),
    "fused": lambda: Attention(fused=True),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_rounded_products_are_those_of_bfloat16(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that knows bfloat16, and with float32 on one that does not: one rounding apart."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    layer = PRODUCTS[kind]()
    found: dict[bool, list[Tensor]] = {}
    for known in (True, False):
        monkeypatch.setattr(bf16, "has_fast_bf16", lambda known=known: known)
        given = images.clone().requires_grad_()
        layer.zero_grad()
        with bf16.bf16():
            out = layer(given)
        out.float().square().sum().backward()
        assert out.dtype == torch.bfloat16
        gradients = [each.grad for each in (given, *layer.parameters())]
        found[known] = [out.float(), *(each.clone() for each in gradients if each is not None)]
        assert len(found[known]) == 1 + len(gradients)
    for expected, rounded in zip(found[True], found[False], strict=True):
        assert (expected - rounded).abs().max() < 0.02 * expected.abs().max()
        assert rounded.equal(rounded.bfloat16().float())
