"""Residuals: the change that NFA makes, at the flow's size, and its addition to images of any size.

At a size other than its own, NFA adds resize(low' - low) to an image, where `low` is the image at
the flow's size. A residual bank stores q = round((low' - low) / s) in int8, with one step s for
each variant, in 1/128 grey level:

    image' = clamp(image + round(s * resize(q)), 0, 255)
    s = ceil(128 * max|low' - low| / 127) / 128

Quantization to q, and each of the two passes of the 8-bit `resize(q)`, add an error of at most s/2,
so a pixel is at most 1.5 s + 1/2 grey levels from the sum before rounding: 1.7 levels for a change
of up to 100 levels, 0.3 on average.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.preprocess import Preprocess, round_levels

__all__ = [
    "Box",
    "BoxFunction",
    "add_residual",
    "centre_box",
    "crop_box",
    "low_resolution",
    "quantize",
]

Box = tuple[int, int, int, int]
BoxFunction = Callable[[int, tuple[int, int]], Box]

_LARGEST = 127
_STEPS = 128  # steps of one grey level
_MOST = 257  # a step for changes of 255 levels; 127 * 257 fits in int16
_FADE = 1 / 8  # of the box's side: outside the box the change falls to zero over this distance


def low_resolution(image: Tensor, shape: tuple[int, int, int], box: Box | None = None) -> Tensor:
    """A uint8 image (C, H, W) of any size at the flow's shape, as `nfaug.fit` sees it.

    Args:
        image: The image.
        shape: (C, h, w) of the flow.
        box: The part of the image that the flow saw, which is resized straight to (h, w), as
            `add_residual` resizes a change straight to the box. Beyond the image its edge is
            repeated. By default, the centre of the image.

    Raises:
        ValueError: The box has no area.
    """
    if box is None:
        return Preprocess(shape[0], (shape[1], shape[2]))(image, "an image of the bank")
    left, top, right, bottom = _checked(box)
    rows = torch.arange(top, bottom).clamp(0, image.shape[1] - 1)
    columns = torch.arange(left, right).clamp(0, image.shape[2] - 1)
    part = image[None, :, rows[:, None], columns].float()
    levels = F.interpolate(part, shape[1:], mode="bilinear", antialias=True)
    return round_levels(levels)[0].to(torch.uint8)


def quantize(change: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize changes in grey levels.

    Args:
        change: (n, C, h, w), in [-255, 255].

    Returns:
        The multiples q, int8 (n, C, h, w), and the steps s, int32 (n,) in 1/128 grey level.
    """
    largest = change.abs().flatten(1).amax(1).double()
    steps = (largest * _STEPS / _LARGEST).ceil().clamp(max=_MOST).to(torch.int32)
    size = (steps.clamp(min=1) / _STEPS)[:, None, None, None]
    return (change / size).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), steps


def centre_box(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The part of an image that the flow sees: its shorter side is resized, its centre is cropped.

    For a square flow this is the largest centred square. It is that of the original image only if
    `size` is the whole image at any scale, or its centre square. Of a smaller crop it is too small:
    after Resize(256) and CenterCrop(224) the flow's square is (-16, -16, 240, 240), not (0, 0, 224,
    224); see `crop_box`.

    Args:
        size: (height, width) of the image.
        shape: (height, width) of the flow.

    Returns:
        (left, top, right, bottom) in pixels, rounded.
    """
    resized = Preprocess(1, shape).resized(torch.empty(1, *size, device="meta"))
    y, x = size[0] / resized[0], size[1] / resized[1]
    top, left = (resized[0] - shape[0]) // 2, (resized[1] - shape[1]) // 2
    return (
        round(left * x),
        round(top * y),
        round((left + shape[1]) * x),
        round((top + shape[0]) * y),
    )


def crop_box(box: Box, crop: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """A box of the whole image, in pixels of a crop that is resized to `size`.

    x' = (x - left) * width / (right - left), and likewise for y. The aspect ratio may change: for
    an image that is squeezed as a whole, the crop is the whole image.

    Example:
        >>> from nfaug.bank.residual import centre_box, crop_box
        >>> box = centre_box((300, 400), (32, 32))
        >>> box, crop_box(box, (100, 0, 300, 200), (224, 224))
        ((47, 0, 344, 300), (-59, 0, 273, 336))
        >>> crop_box(box, (0, 0, 400, 300), (224, 224))  # squeezed to a square
        (26, 0, 193, 224)
        >>> square = centre_box((256, 256), (32, 32))
        >>> crop_box(square, (16, 16, 240, 240), (224, 224))  # Resize(256), CenterCrop(224)
        (-16, -16, 240, 240)

    Args:
        box: (left, top, right, bottom) in pixels of the whole image, such as `centre_box`.
        crop: (left, top, right, bottom) of the crop, in the same pixels.
        size: (height, width) that the crop is resized to.
    """
    left, top, right, bottom = crop
    x, y = size[1] / (right - left), size[0] / (bottom - top)
    return (
        round((box[0] - left) * x), round((box[1] - top) * y),
        round((box[2] - left) * x), round((box[3] - top) * y),
    )  # fmt: skip


def add_residual(pixels: np.ndarray, residual: np.ndarray, step: int, box: Box) -> np.ndarray:
    """Add a residual to the part of an image that the flow saw.

    Outside the box the change of its edge falls to zero over an eighth of the box's side, so that
    no edge appears.

    Args:
        pixels: uint8 (H, W, C).
        residual: Multiples q, int8 (h, w, C).
        step: Step s in 1/128 grey level.
        box: (left, top, right, bottom) in pixels of the image. It may reach beyond the image.

    Raises:
        ValueError: The box has no area.
    """
    left, top, right, bottom = _checked(box)
    # q + 128 in channels-last order, which has a fast kernel whose result is in the image's order.
    q = torch.from_numpy(residual.view(np.uint8) ^ 128)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(q, (bottom - top, right - left), mode="bilinear", antialias=True)
    result = resized[0].permute(1, 2, 0).numpy()
    change = result.astype(np.int16)
    # (q * step + 64) >> 7. The product may wrap around; the sum, which fits in int16, is right.
    change *= np.int16(step)
    change += np.array(_STEPS // 2 - 128 * step).astype(np.int16)
    change >>= 7
    height, width = pixels.shape[:2]
    if box != (0, 0, width, height):
        rows, row_weights = _place(height, top, bottom)
        columns, column_weights = _place(width, left, right)
        weights = row_weights[:, None, None] * column_weights[:, None]
        change = (change[rows[:, None], columns] * weights).round().astype(np.int16)
        result = np.empty_like(pixels)
    change += pixels
    return np.clip(change, 0, 255, out=result, casting="unsafe")


def _checked(box: Box) -> Box:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise ValueError(
            f"the box of an image is (left, top, right, bottom) and must have an area; got {box}"
        )
    return box


def _place(count: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """The box's row of each row of the image, and the share of its change that is added."""
    rows = np.arange(count) - start
    inside = rows.clip(0, stop - start - 1)
    distance = np.abs(rows - inside) / max(1.0, _FADE * (stop - start))
    return inside, (1 - distance).clip(0, 1).astype(np.float32)
