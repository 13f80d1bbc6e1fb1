"""The part of an image that a flow sees, cropped as for a fit, and how a change fades around it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.resize import resize_levels, resized_size

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the whole image

_FADE = 1 / 8  # of the box's side: outside the box the change falls to zero over this distance


def centre_box(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The part of a whole image that the flow sees: its centre, after resizing the shorter side.

    Args:
        size: (height, width) of the image.
        shape: (height, width) of the flow.

    Returns:
        (left, top, right, bottom) in pixels, rounded, and at least one pixel wide and high.
    """
    resized = resized_size(size, shape)
    top, bottom = _centre_span(size[0], resized[0], shape[0])
    left, right = _centre_span(size[1], resized[1], shape[1])
    return left, top, right, bottom


def seen_part(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """What a flow of (height, width) sees of whole images, uint8 (B, C, H, W), at its size."""
    left, top, right, bottom = centre_box((images.shape[-2], images.shape[-1]), shape)
    return resize_levels(images[..., top:bottom, left:right], shape)


def at_its_place(part: Tensor, images: Tensor) -> Tensor:
    """A `seen_part` at its place in images (B, C, H, W), and black around it."""
    shape = (part.shape[-2], part.shape[-1])
    left, top, right, bottom = centre_box((images.shape[-2], images.shape[-1]), shape)
    view = torch.zeros_like(images)
    view[..., top:bottom, left:right] = resize_levels(part, (bottom - top, right - left))
    return view


def _centre_span(pixels: int, resized: int, kept: int) -> tuple[int, int]:
    """First pixel, and the one after the last, of the centre that is kept of a resized side."""
    scale = pixels / resized
    first = (resized - kept) // 2
    start = round(first * scale)
    stop = round((first + kept) * scale)
    return start, max(start + 1, stop)  # of a side of one pixel, rounding may leave none


def fading(count: int, start: int, stop: int) -> NDArray[np.float32]:
    """The share of a box's change that is added, along a side of `count` pixels.

    It is 1 in the box, [start, stop), and 0 from an eighth of its side on.
    """
    rows = np.arange(count) - start
    nearest = rows.clip(0, stop - start - 1)
    distance = np.abs(rows - nearest) / max(1.0, _FADE * (stop - start))
    return (1 - distance).clip(0, 1).astype(np.float32)
