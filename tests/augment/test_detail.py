"""Changes at the flow's size that are added to images of another size: what detail stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tools.nfa import CLASSES, TensorImages, checkpoint, images_of
from torch import Tensor

import nfaug
from nfaug.augment.box import centre_box
from nfaug.augment.detail import add_change, lost_share
from nfaug.augment.pixels import resize
from nfaug.augment.transform import NFAugment
from nfaug.data.resize import resize_levels
from nfaug.run.seeds import SharedGenerator


def pixels_of(images: Tensor) -> nfaug.Checkpoint:
    """builtin:pixels, fitted to images of the tests' classes."""
    data = TensorImages(images, torch.arange(len(images)) % CLASSES)
    return nfaug.fit("builtin:pixels", data, rank=2, progress=False)


def letters() -> tuple[Tensor, Tensor]:
    """White images (2, 1, 32, 32) with a thin stroke, and the same at half the size."""
    images = torch.ones(2, 1, 32, 32)
    images[0, :, 4:28, 9:12] = 0
    images[1, :, 20:23, 4:28] = 0
    return images, resize(images, (16, 16))


def test_a_stroke_that_goes_leaves_no_outline() -> None:
    images, low = letters()
    new = low.flip(0)  # each letter becomes the other one
    made = add_change(images, new - low, low)
    gone = (images < 1) & (resize(new, (32, 32)) == 1)
    assert gone.sum() > 50
    added_alone = images + resize(new - low, (32, 32))
    assert (1 - added_alone[gone]).abs().max() > 0.3, "the outline that a change alone leaves"
    assert (1 - made[gone]).abs().max() < 0.05
    assert (made - resize(new, (32, 32))).abs().mean() < 0.01


def test_another_light_keeps_all_detail() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.3 * torch.rand(3, 3, 40, 24, generator=generator)
    low = resize(images, (10, 6))
    light = torch.tensor([-0.2, 0.0, 0.3]).view(3, 1, 1, 1).expand_as(low)
    assert torch.allclose(add_change(images, light.clone(), low), images + light[:, :, :1, :1])
    more_contrast = 0.5 * (low - 0.45)
    expected = images + resize(more_contrast, (40, 24))
    assert torch.allclose(add_change(images, more_contrast.clone(), low), expected)


def test_at_the_same_size_the_change_alone_is_added() -> None:
    images, _ = letters()
    change = 0.4 * (0.5 - images)
    assert torch.equal(add_change(images, change.clone(), images), (change + images).clamp(0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_share_follows_the_slope_of_a_window(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    low = torch.rand(2, channels, 7, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, channels, 7, 5, generator=generator, dtype=torch.float64)
    change = 0.1 * noise - 0.7 * low
    share = lost_share(low, change)
    assert share.shape == (2, 1, 7, 5)
    windows = np.s_[1, :, 2:5, 1:4]  # around row 3 and column 2 of the second image
    x = low[windows].flatten(1).numpy()
    y = x + change[windows].flatten(1).numpy()
    x_centred = x - x.mean(1, keepdims=True)
    covariance = (x_centred * (y - y.mean(1, keepdims=True))).sum() / 9
    slope = (covariance + 1e-3) / ((x_centred**2).sum() / 9 + 1e-3)
    assert 0 < slope < 0.5
    assert float(share[1, 0, 3, 2]) == pytest.approx(1 - 2 * slope)


@pytest.mark.parametrize(
    ("contrast", "lost"), [(2.0, 0.0), (1.0, 0.0), (0.6, 0.0), (0.25, 0.5), (0.0, 1.0), (-1.0, 1.0)]
)
def test_detail_leaves_where_more_than_half_of_the_contrast_does(
    contrast: float, lost: float
) -> None:
    low = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    share = lost_share(low, (contrast - 1) * low)
    assert torch.allclose(share, torch.tensor(lost), atol=0.06)


def test_where_an_image_is_flat_nothing_is_lost() -> None:
    change = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert bool((lost_share(torch.full((1, 1, 5, 5), 0.5), change) < 1e-3).all())


def test_outside_the_box_the_change_fades() -> None:
    assert centre_box((16, 40), (8, 8)) == (12, 0, 28, 16)
    assert centre_box((375, 500), (32, 32)) == (58, 0, 430, 375), "5 of 43 columns are cropped"
    images = torch.full((1, 1, 16, 40), 0.2)
    change = torch.full((1, 1, 8, 8), 0.4)
    row = add_change(images, change, images[..., :8, :8], (12, 0, 28, 16))[0, 0, 8]
    assert torch.allclose(row[12:28], torch.tensor(0.6))
    assert torch.allclose(row[[11, 28]], torch.tensor(0.4)), "half, one of two pixels away"
    assert bool((row[:11] == 0.2).all())
    assert bool((row[29:] == 0.2).all())


@pytest.mark.parametrize("size", [(224, 224), (20, 12), (5, 6)])
def test_nfa_adds_what_it_changes_at_the_flows_size(size: tuple[int, int]) -> None:
    labels = torch.arange(12) % CLASSES
    fine = 20 * torch.rand(12, 3, *size, generator=torch.Generator().manual_seed(0))
    images = (resize_levels(images_of(labels), size) * 0.9 + fine).to(torch.uint8)
    nfa = NFAugment(checkpoint(), p=1.0, gate=None)
    box = left, top, right, bottom = centre_box(size, (8, 8))
    low = resize_levels(images[..., top:bottom, left:right], (8, 8))

    def made_of(given: Tensor) -> Tensor:
        generator = SharedGenerator().manual_seed(1)
        return next(nfa.variants(given / 255, labels, [generator]))

    change = made_of(low) - low / 255
    expected = add_change(images / 255, change, low / 255, box)
    assert torch.allclose(made_of(images), expected, atol=1e-3)
    assert bool((change != 0).flatten(1).any(1).all())


@pytest.mark.parametrize("kind", ["flow", "pixels"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_long_image_changes_in_the_centre_that_a_fit_sees(kind: str, dtype: torch.dtype) -> None:
    """It was squeezed whole to the flow's size, unlike the images of the fit."""
    labels = torch.arange(12) % CLASSES
    squares = images_of(labels, size=(24, 24))
    border = torch.full((12, 3, 24, 12), 120, dtype=torch.uint8)
    long = torch.cat((border, squares, border), 3)
    if dtype.is_floating_point:
        squares, long = squares / 255, long / 255
    fitted = checkpoint() if kind == "flow" else pixels_of(images_of(labels))
    nfa = NFAugment(fitted, p=1.0, gate=None)
    (expected,) = nfa.variants(squares, labels, [torch.Generator().manual_seed(0)])
    (found,) = nfa.variants(long, labels, [torch.Generator().manual_seed(0)])
    assert not torch.equal(expected, squares)
    torch.testing.assert_close(found[..., 12:36], expected)
    assert torch.equal(found[..., :9], long[..., :9])
    assert torch.equal(found[..., 39:], long[..., 39:])
    edges = found[..., 10:12].float() - long[..., 10:12].float()
    assert edges.any(), "the change fades, and has no edge"
