"""Gray levels of images as tensors: their channels, their size, and how both change."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..run.blocks import blocks
from .image_files import STRIP, row_strips

# An image more than so many times as long as what is kept is cropped before it is resized.
_LONGEST = 4
_TIE = 2**-10  # of a gray level; see `round_levels`
_GRAY_MODES = ("1", "L", "LA", "La")


def channels_of(image: Image.Image | Tensor) -> int:
    """The stored number of channels: 1 or 3 for a PIL image, C for a tensor (C, H, W)."""
    if isinstance(image, Tensor):
        return image.shape[0]
    return channels_of_mode(image.mode)


def channels_of_mode(mode: str) -> int:
    """1 or 3, for a mode of PIL."""
    is_gray = mode in _GRAY_MODES or mode.startswith(("I", "F"))
    return 1 if is_gray else 3


def size_of(image: Image.Image | Tensor) -> tuple[int, int]:
    """(height, width) in pixels. A PIL image need not be decoded for it."""
    if isinstance(image, Tensor):
        return image.shape[1], image.shape[2]
    return image.height, image.width


def resized_size(size: tuple[int, int], kept: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image of this size after resizing, before the crop to what is kept."""
    height, width = size
    H, W = kept
    scale = max(H / height, W / width)
    return max(H, round(height * scale)), max(W, round(width * scale))


def shortened(image: Image.Image | Tensor, kept: tuple[int, int]) -> Image.Image | Tensor:
    """The image, cropped around its centre if it is much longer than what is kept of it.

    Otherwise an image of a single row would be resized to gigabytes.
    """
    height, width = size_of(image)
    resized = resized_size((height, width), kept)
    H, W = kept
    if resized[0] > _LONGEST * H:
        height = math.ceil(height * _LONGEST * H / resized[0])
    if resized[1] > _LONGEST * W:
        width = math.ceil(width * _LONGEST * W / resized[1])
    if (height, width) == size_of(image):
        return image
    if isinstance(image, Tensor):
        return centre(image, (height, width))
    left = (image.width - width) // 2
    top = (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def centre(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The central `size` of an image (C, H, W)."""
    height, width = size
    top = (pixels.shape[1] - height) // 2
    left = (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def round_levels(levels: Tensor) -> Tensor:
    """Round gray levels in floating point to the nearest integer in [0, 255].

    Averages of two, four, ... pixels often end in exactly 1/2, and the float32 kernels of two
    devices may differ in the last digits. The limit lies a little below 1/2, so that such a tie
    does not depend on these digits.
    """
    return (levels + (0.5 + _TIE)).floor_().clamp_(0, 255)


def resize_levels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 images (C, H, W) or (B, C, H, W), resized to (height, width) as v2.Resize does.

    Bilinear, and antialiased when the size shrinks. Rows are resized first, then columns, and both
    results are rounded to 8 bits. PIL does the same, with a level between them in less than 1% of
    values. Torch resizes bytes on the CPU alone; see `resize_in_floats` for other devices.
    """
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    if pixels.device.type == "cpu":
        return _interpolate(pixels, size)
    return resize_in_floats(pixels, size)


def resize_in_floats(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """What `resize_levels` returns, for any device.

    In images that shrink, less than 1% of the values differ, by one level. In images that grow by a
    half, where many averages end in 1/2, one in ten differs, by up to two.
    """
    rows = round_levels(_interpolate(pixels.float(), (pixels.shape[-2], size[1])))
    return round_levels(_interpolate(rows, size)).to(torch.uint8)


def strips(image: Image.Image | Tensor) -> Iterator[Image.Image | Tensor]:
    """The rows of an image in parts of up to `STRIP` bytes, from the top; all if it is smaller."""
    if isinstance(image, Tensor):
        for rows in blocks(image.shape[1], 4 * image.shape[2], at_once=STRIP):
            yield image[:, rows]
    else:
        yield from row_strips(image)


def as_pixels(image: Image.Image | Tensor, channels: int) -> Tensor:
    """An 8-bit image as uint8 (channels, H, W); 1 and 3 channels are converted as PIL does."""
    if isinstance(image, Tensor):
        pixels = image
    else:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # PIL warns when it converts straight to RGB
        gray = 1 in (channels, channels_of(image))
        mode = "L" if gray else "RGB"
        array = np.array(image if image.mode == mode else image.convert(mode))
        pixels = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
    if len(pixels) < channels:
        return pixels.expand(channels, -1, -1)
    return _to_gray(pixels) if len(pixels) > channels else pixels


def _interpolate(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) or (B, C, H, W) in their type."""
    if pixels.ndim == 3:
        return _interpolate(pixels[None], size)[0]
    if size == (1, 1):  # torch 2.13 has an internal error for a column of color pixels
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def _to_gray(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma in PIL's integer arithmetic, so that tensors and files give equal levels."""
    red, green, blue = pixels.int()
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8)[None]
