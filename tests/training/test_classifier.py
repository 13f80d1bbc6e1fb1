from __future__ import annotations

import pytest
import torch
from nfa_tools import images_of
from torch import Tensor, nn

from nfaug.training.evaluation.classifier import accuracy, resnet18, train_classifier


class Small(nn.Sequential):
    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(nn.Flatten(), nn.Linear(64, 3))


LABELS = torch.arange(60) % 3
IMAGES = images_of(LABELS, channels=1)


def test_resnet18() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (resnet18(1, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.conv1.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with torch.no_grad():
        assert one.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert resnet18(3, 10, seed=0, small=False).conv1.stride == (2, 2)


def test_it_learns() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    models = [
        train_classifier(Small(), IMAGES, LABELS, steps=40, batch_size=20, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.state_dict()["1.weight"] for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    test = torch.arange(30) % 3
    assert accuracy(models[0], images_of(test, channels=1, seed=5), test, batch_size=7) > 0.8


def test_every_image_is_seen_equally_often() -> None:
    seen = torch.zeros(60)

    def count(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert images.dtype == torch.uint8
        for image, label in zip(images, labels, strict=True):
            row = int((image == IMAGES).flatten(1).all(1).nonzero()[0])
            assert LABELS[row] == label
            seen[row] += 1
        return images, labels

    train_classifier(Small(), IMAGES, LABELS, steps=9, batch_size=20, augment=count)
    assert seen.tolist() == [3.0] * 60


def test_images_are_enlarged() -> None:
    sizes = set()

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            sizes.add(tuple(x.shape[1:]))
            assert -1 <= x.min() <= x.max() <= 1
            return x.mean((1, 2, 3))[:, None] * self.weight

    model = train_classifier(Watch(), IMAGES, LABELS, steps=1, size=16)
    assert accuracy(model, IMAGES, LABELS, size=16) == pytest.approx(1 / 3)
    assert sizes == {(1, 16, 16)}
