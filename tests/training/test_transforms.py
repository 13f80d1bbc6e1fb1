"""Training-time augmentation of the flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nfaug.data.augmentation import FlowAugmentation

SETTINGS: list[dict[str, Any]] = [
    {"hflip": True},
    {"pad_crop": 2},
    {"hflip": True, "pad_crop": 1},
]


def batch(size: int = 8, channels: int = 3, height: int = 6, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (size, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(images: Tensor, seed: int, **settings: Any) -> Tensor:
    augment = FlowAugmentation(**settings)
    return augment.apply(images, augment.draw(len(images), seeded(seed)))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_contract(settings: dict[str, Any], channels: int) -> None:
    augment = FlowAugmentation(**settings)
    images = batch(channels=channels)
    before = images.clone()
    state = torch.get_rng_state()
    one, same, other = (augmented(images, seed, **settings) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # Each image has its own parameters, and they do not depend on its neighbours.
    params = augment.draw(8, seeded(1))
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    permuted = augment.apply(images[order], {k: v[order] for k, v in params.items()})
    assert torch.equal(permuted, one[order])


def test_flip() -> None:
    images = batch(200)
    result = augmented(images, 0, hflip=True)
    flipped = (result == images.flip(-1)).all(dim=(1, 2, 3))
    kept = (result == images).all(dim=(1, 2, 3))
    assert (flipped ^ kept).all()
    assert 70 < int(flipped.sum()) < 130


def test_shift_mirrors_the_border() -> None:
    images = batch(1, 1, 3, 4)
    shift = {"shift": torch.tensor([[1, -2]])}
    result = FlowAugmentation(pad_crop=2).apply(images, shift)
    rows, columns = [1, 0, 1], [2, 3, 2, 1]
    assert torch.equal(result, images[:, :, rows][:, :, :, columns])
    drawn = FlowAugmentation(pad_crop=2).draw(500, seeded(0))["shift"]
    assert set(drawn.unique().tolist()) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [("pad_crop", -1), ("pad_crop", 1.5), ("noise", 256), ("noise", float("nan"))],
)
def test_wrong_settings(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} .* {value}"):
        FlowAugmentation(**{name: value})


def test_wrong_images() -> None:
    with pytest.raises(ValueError, match="pad_crop"):
        augmented(batch(), 0, pad_crop=6)
