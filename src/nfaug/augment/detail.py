"""A change at the flow's size, added to images of another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .box import Box, fading
from .pixels import as_unit, resize

_EPSILON = 1e-3  # a deviation of 8 gray levels; a window with less has little structure


def add_change(images: Tensor, change: Tensor, low: Tensor, box: Box | None = None) -> Tensor:
    """Add a change c to images x: clamp(x + up(c) - up(f) * (x - up(low)), 0, 1).

    x - up(low) is the detail that the images lose at the size of the change, and f the share of it
    that leaves (`lost_share`). Without the last term, the outlines of an object that is gone would
    stay over the new image (`lab/results/detail` compares rules).

    All this is in the box. Outside it all detail stays, and the change of its edge falls to zero
    over an eighth of the box's side, so that the change has no edge there.

    Args:
        images: (n, C, H, W) in [0, 1].
        change: (n, C, h, w), of the same size or another; it is overwritten.
        low: (n, C, h, w) the part in the box at this size, uint8 or in [0, 1].
        box: A part of the images, such as `centre_box`; None for whole images.
    """
    if change.shape == images.shape:
        return change.add_(images).clamp_(0, 1)
    height, width = images.shape[-2:]
    left, top, right, bottom = box or (0, 0, width, height)
    size = (bottom - top, right - left)
    seen = images[..., top:bottom, left:right]
    low = as_unit(low)
    lost = resize(lost_share(low, change), size)
    detail = seen - resize(low, size)
    change = resize(change, size)
    if size == (height, width):
        return change.add_(images).sub_(detail.mul_(lost)).clamp_(0, 1)
    row_weights = fading(height, top, bottom)
    column_weights = fading(width, left, right)
    weights = torch.from_numpy(row_weights[:, None] * column_weights).to(change)
    around = (left, width - right, top, height - bottom)
    change = F.pad(change, around, mode="replicate").mul_(weights)
    change[..., top:bottom, left:right].sub_(detail.mul_(lost))
    return change.add_(images).clamp_(0, 1)


def lost_share(low: Tensor, change: Tensor) -> Tensor:
    """The share of their detail that images lose with a change, around each pixel.

    In a window of 3 x 3 pixels the new image low + c is fitted by a * low + b with least squares,
    as a guided filter does (He et al., ECCV 2010). Detail stays where at least half of the
    structure does, and is gone where no structure is left:

        f = min(1, max(0, 1 - 2a)),    a = 1 + cov(low, c) / (var(low) + 1e-3)

    with the covariance and the variance of the window, added up over channels. Windows repeat the
    edge of an image. A change that is constant in a window, of light or tint, has a = 1, and more
    contrast has a > 1; both keep all detail. Where `low` is flat, a is near 1 for every change.

    Args:
        low: (n, C, h, w) in [0, 1].
        change: c, of the same shape.

    Returns:
        f, (n, 1, h, w) in [0, 1].
    """
    products = torch.cat((low, change, low * change, low.square()), 1)
    mean, mean_change, mean_product, mean_square = _window_mean(products).chunk(4, 1)
    covariance = (mean_product - mean * mean_change).sum(1, keepdim=True)
    variance = (mean_square - mean.square()).sum(1, keepdim=True)
    slope = 1 + covariance / (variance + _EPSILON)
    return (1 - 2 * slope).clamp_(0, 1)


def _window_mean(images: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels around each pixel; sums are faster than `avg_pool2d` on a CPU."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    windows = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return windows.div_(9)
