"""Residuals: the change that NFA makes, at the flow's size, and its addition to images of any size.

A residual bank stores the change c = low' - low of an image `low` at the flow's size as multiples
q = round(c / s) in int8, with one step s for each variant, in 1/128 grey level:

    s = ceil(128 * max|c| / 127) / 128

`add_residual` adds s * q to an image of any size as `nfaug.augment.detail.add_change` does, and
rounds. Quantization to q, and each of the two passes of the 8-bit resizing of q, add an error of at
most s / 2 to the change: 1.2 grey levels for a change of up to 100. The share of the detail that
leaves is computed from the stored change, which moves single pixels by more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..augment.box import Box, fading
from ..augment.detail import lost_share
from ..run.device import float64_device

_LARGEST = 127  # multiple of a step that int8 holds
_STEPS = 128  # units of a step's size in one grey level
MOST_STEPS: int = 257  # largest step, for changes of 255 levels; 127 * 257 fits in int16


def quantize(change: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize changes in grey levels.

    Args:
        change: (n, C, h, w), in [-255, 255].

    Returns:
        The multiples q, int8 (n, C, h, w), and the steps s, int32 (n,) in 1/128 grey level.
    """
    largest = change.abs().flatten(1).amax(1)
    largest = largest.to(float64_device(change.device)).double()
    steps = (largest * _STEPS / _LARGEST).ceil().clamp(max=MOST_STEPS)
    steps = steps.to(torch.int32).to(change.device)
    step_levels = (steps.clamp(min=1) / _STEPS)[:, None, None, None]
    multiples = (change / step_levels).round().clamp(-_LARGEST, _LARGEST)
    return multiples.to(torch.int8), steps


def add_residual(pixels: np.ndarray, residual: np.ndarray, step: int, box: Box) -> np.ndarray:
    """Add a residual to the part of an image that the flow saw.

    Outside the box all detail stays, and the change of its edge falls to zero over an eighth of the
    box's side, so that the change has no edge there.

    Args:
        pixels: uint8 (H, W, C).
        residual: Multiples q, int8 (h, w, C).
        step: Step s in 1/128 grey level.
        box: (left, top, right, bottom) in pixels of the image, such as `centre_box`.
    """
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    change = _resized(residual.view(np.uint8) ^ 128, size).astype(np.int16)
    # (q * step + 64) >> 7. The product may wrap around; the sum, which fits in int16, is right.
    change *= np.int16(step)
    change += np.array(_STEPS // 2 - 128 * step).astype(np.int16)
    change >>= 7
    height, width = pixels.shape[:2]
    if box != (0, 0, width, height):
        rows, row_weights = fading(height, top, bottom)
        columns, column_weights = fading(width, left, right)
        weights = row_weights[:, None, None] * column_weights[:, None]
        change = (change[rows[:, None], columns] * weights).round().astype(np.int16)
    if size != residual.shape[:2]:
        seen = pixels[top:bottom, left:right].copy()  # torch warns of arrays that are read-only
        unit_change = residual * np.float32(step / (255 * _STEPS))
        change[top:bottom, left:right] -= _lost_detail(seen, unit_change)
    change += pixels
    return change.clip(0, 255).astype(np.uint8)


def _lost_detail(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The detail that leaves with a change, int16 (H, W, C).

    Args:
        pixels: uint8 (H, W, C).
        change: The change of the image at the flow's size, (h, w, C), of pixels in [0, 1].
    """
    size = pixels.shape[:2]
    low = _resized(pixels, change.shape[:2])
    detail = pixels - _resized(low, size).astype(np.int16)
    unit_low = _as_batch(low / np.float32(255)).contiguous()
    share = lost_share(unit_low, _as_batch(change).contiguous())[0, 0]
    parts = (128 * share).round().to(torch.uint8).numpy()
    # One channel takes longer to resize and to multiply by than three.
    detail *= _resized(np.repeat(parts[..., None], change.shape[2], 2), size)  # 128 * 255 < 2**15
    detail += 64
    detail >>= 7
    return detail


def _as_batch(image: np.ndarray) -> torch.Tensor:
    """An image (H, W, C) as a batch (1, C, H, W) whose channels come last in memory.

    Resizing 8-bit images is fastest in this order, and its result is in it, too.
    """
    return torch.from_numpy(image)[None].permute(0, 3, 1, 2)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 (H, W, C) of another size, bilinear and antialiased."""
    resized = F.interpolate(_as_batch(pixels), size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
