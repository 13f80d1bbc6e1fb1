from __future__ import annotations

import pytest
import torch
from nfa_tools import images_of
from torch import Tensor, nn

from nfaug.training.evaluation.classifier import accuracy, small_cnn, train_classifier


class Small(nn.Sequential):
    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(nn.Flatten(), nn.Linear(64, 3))


LABELS = torch.arange(60) % 3
IMAGES = images_of(LABELS, channels=1)


def test_small_cnn() -> None:
    model = small_cnn(1, 3, (4, 8))
    assert [m.out_channels for m in model if isinstance(m, nn.Conv2d)] == [4, 8]
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_it_learns() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    models = [
        train_classifier(Small(), IMAGES.__getitem__, LABELS, steps=40, batch_size=20, seed=seed)
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

    def count(rows: Tensor) -> Tensor:
        seen[rows] += 1
        return IMAGES[rows]

    train_classifier(Small(), count, LABELS, steps=9, batch_size=20)
    assert seen.tolist() == [3.0] * 60


def test_images_are_scaled() -> None:
    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            assert (float(x.min()), float(x.max())) == (-1, 1)
            return x.mean((1, 2, 3))[:, None] * self.weight

    images = IMAGES.clone()
    images[:, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    model = train_classifier(Watch(), images.__getitem__, LABELS, steps=1)
    assert accuracy(model, images, LABELS) == pytest.approx(1 / 3)
