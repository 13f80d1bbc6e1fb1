"""A change at the flow's size, added to images of another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .pixels import as_unit, resize

_EPSILON = 1e-3  # a deviation of 8 grey levels; a window with less has little structure


def add_change(images: Tensor, change: Tensor, low: Tensor) -> Tensor:
    """Add a change c to images x: clamp(x + up(c) - up(f) * (x - up(low)), 0, 1).

    x - up(low) is the detail that the images lose at the size of the change, and f the share of it
    that leaves (`lost_share`). Without the last term, the outlines of an object that is gone would
    stay over the new image (`lab/results/detail` compares rules).

    Args:
        images: (n, C, H, W) in [0, 1].
        change: (n, C, h, w), of the same size or another; it is overwritten.
        low: (n, C, h, w) the images at this size, uint8 or in [0, 1].
    """
    if change.shape == images.shape:
        return change.add_(images).clamp_(0, 1)
    size = (images.shape[-2], images.shape[-1])
    low = as_unit(low)
    lost = resize(lost_share(low, change), size)
    detail = images - resize(low, size)
    return resize(change, size).add_(images).sub_(detail.mul_(lost)).clamp_(0, 1)


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
