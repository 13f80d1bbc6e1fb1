"""Training-time augmentation of the flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from nfaug.data.augmentation import FlowAugmentation

SETTINGS: list[dict[str, Any]] = [
    {"hflip": True},
    {"pad_crop": 2},
    {"hflip": True, "pad_crop": 1},
    {"rotation": 40.0},
    {"rotation": 12.0, "pad_crop": 2},
    {"brightness": 0.3},
    {"contrast": 0.3},
    {"hflip": True, "pad_crop": 2, "rotation": 12, "brightness": 0.1, "saturation": 0.5},
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
@pytest.mark.parametrize("channels", [1, 3])
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
    alone = augment.apply(images[5:6], {k: v[5:6] for k, v in params.items()})
    assert torch.equal(alone, one[5:6])


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


def test_rotation_is_torchvisions_with_continued_borders() -> None:
    """As the released settings: a wide border of edge pixels, a rotation, then a shifted crop."""
    images = batch(30, 3, 32, 32)
    params = FlowAugmentation(rotation=12, pad_crop=2).draw(30, seeded(0))
    assert 8 < float(params["angle"].abs().max()) <= 12
    assert float(params["angle"].min()) < 0 < float(params["angle"].max())
    result = FlowAugmentation(rotation=12, pad_crop=2).apply(images, params)
    padded = transforms.pad(images, [8], padding_mode="edge")
    for index, (angle, (down, right)) in enumerate(
        zip(params["angle"].tolist(), params["shift"].tolist(), strict=True)
    ):
        middle = transforms.center_crop(transforms.rotate(padded[index], angle), [36, 36])
        expected = transforms.crop(middle, 2 - down, 2 - right, 32, 32)
        same = (result[index] == expected).float().mean()
        assert float(same) > 0.999  # a tie between two pixels may go either way


@pytest.mark.parametrize("angle", [90.0, 45.0, 30.0, 180.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 40), (9, 6)])
def test_no_corner_of_a_rotated_image_is_black(angle: float, height: int, width: int) -> None:
    images = torch.full((1, 1, height, width), 200, dtype=torch.uint8)
    params = {"angle": torch.tensor([angle]), "shift": torch.tensor([[2, -2]])}
    result = FlowAugmentation(rotation=180, pad_crop=2).apply(images, params)
    assert bool((result == 200).all())


def test_a_quarter_turn_is_exact() -> None:
    images = batch(2, 3, 8, 8)
    result = FlowAugmentation(rotation=180).apply(images, {"angle": torch.full((2,), 90.0)})
    assert torch.equal(result, images.rot90(1, (2, 3)))


def test_jitter_is_torchvisions_in_one_order() -> None:
    images = batch(200)
    augment = FlowAugmentation(brightness=0.1, contrast=0.2, saturation=0.05)
    params = augment.draw(200, seeded(0))
    low, high = params["jitter"].aminmax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.9, 0.8, 0.95]), rtol=0, atol=0.01)
    torch.testing.assert_close(high, torch.tensor([1.1, 1.2, 1.05]), rtol=0, atol=0.01)
    result = augment.apply(images, params)
    for index in (0, 199):
        brightness, contrast, saturation = params["jitter"][index].tolist()
        expected = transforms.adjust_brightness(images[index], brightness)
        expected = transforms.adjust_contrast(expected, contrast)
        expected = transforms.adjust_saturation(expected, saturation)
        assert torch.equal(result[index], expected)


def test_what_is_off_draws_nothing_and_what_is_new_draws_last() -> None:
    """Runs of earlier versions go on with the numbers that they would have drawn."""
    before = FlowAugmentation(hflip=True, pad_crop=1).draw(5, seeded(0))
    after = FlowAugmentation(hflip=True, pad_crop=1, rotation=9, contrast=0.1).draw(5, seeded(0))
    assert list(after) == ["flip", "shift", "angle", "jitter"]
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert bool((after["jitter"][:, [0, 2]] == 1).all())
    generator = seeded(0)
    assert FlowAugmentation().draw(5, generator) == {}
    assert torch.equal(generator.get_state(), seeded(0).get_state())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pad_crop", -1),
        ("pad_crop", 1.5),
        ("noise", 256),
        ("noise", float("nan")),
        ("rotation", 181),
        ("rotation", -1.0),
        ("contrast", 1.1),
        ("brightness", -0.1),
        ("saturation", 2),
    ],
)
def test_wrong_settings(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} .* {value}"):
        FlowAugmentation(**{name: value})


def test_wrong_images() -> None:
    with pytest.raises(ValueError, match="pad_crop"):
        augmented(batch(), 0, pad_crop=6)
