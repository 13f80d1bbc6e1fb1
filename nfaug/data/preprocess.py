"""From images of any size and mode to 8-bit tensors of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Preprocess", "channels_of", "size_of"]

GRAY_MODES = frozenset({"1", "L", "LA", "La"})


def channels_of(image: Image.Image | Tensor) -> int:
    """The channels an image comes with: 1 or 3 for a PIL image, C for a tensor (C, H, W)."""
    if isinstance(image, Tensor):
        return image.shape[0]
    return 1 if image.mode in GRAY_MODES else 3


def size_of(image: Image.Image | Tensor) -> tuple[int, int]:
    """(height, width) in pixels; a PIL image need not be decoded for it."""
    if isinstance(image, Tensor):
        return image.shape[1], image.shape[2]
    return image.height, image.width


@dataclass(frozen=True)
class Preprocess:
    """Turn an image into a contiguous uint8 tensor of shape (channels, H, W).

    Channels are converted between 1 and 3 as PIL does; transparency is dropped. An image of another
    size is scaled until its shorter side fits (bilinear, antialiased) and the middle is cut out, so
    the aspect ratio is kept.

    Args:
        channels: Channels of the result.
        image_size: (H, W) of the result, in pixels.
        convert: Whether a colour image may become grayscale; if not, it is an error.
        resize: Whether an image of another size is resized; if not, it is an error.
    """

    channels: int
    image_size: tuple[int, int]
    convert: bool = True
    resize: bool = True

    def __call__(self, image: Image.Image | Tensor, name: str) -> Tensor:
        """Preprocess a PIL image or a uint8 tensor (C, H, W); `name` is for the errors.

        Raises:
            ValueError: If the image does not fit and may not be converted or resized.
        """
        self.check(image, name)
        pixels = image if isinstance(image, Tensor) else _to_tensor(image, self.channels)
        if len(pixels) < self.channels:
            pixels = pixels.expand(self.channels, -1, -1)
        elif len(pixels) > self.channels:
            pixels = _to_gray(pixels)
        if size_of(pixels) != self.image_size:
            pixels = self._fit(pixels)
        return pixels.contiguous()

    def check(self, image: Image.Image | Tensor, name: str) -> None:
        """Raise the errors of a call, at the cost of a look at the header."""
        found = channels_of(image)
        if self.channels != found and {self.channels, found} != {1, 3}:
            raise ValueError(
                f"{name} has {found} channels, expected {self.channels}; only 1 and 3 are "
                "converted into each other"
            )
        if found > self.channels and not self.convert:
            raise ValueError(
                f"{name} is a colour image, but the first images of the data set are grayscale; "
                "give channels=3, or channels=1 to drop the colours"
            )
        if not isinstance(image, Tensor) and image.mode.startswith(("I", "F")):
            raise ValueError(
                f"{name} has more than 8 bits per channel (mode {image.mode!r}); convert it to 8"
            )
        (height, width), (target_height, target_width) = size_of(image), self.image_size
        if not self.resize and (height, width) != self.image_size:
            raise ValueError(
                f"{name} is {height} x {width} pixels, but the first image of the data set is "
                f"{target_height} x {target_width}; give image_size=({target_height}, "
                f"{target_width}), or another one, to resize and crop every image"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, to be recorded in a checkpoint."""
        return {
            "channels": self.channels,
            "image_size": list(self.image_size),
            "resize": "shorter side" if self.resize else None,
            "interpolation": "bilinear, antialiased" if self.resize else None,
            "crop": "centre" if self.resize else None,
        }

    def _fit(self, pixels: Tensor) -> Tensor:
        """Scale to the shorter side, then cut out the middle."""
        (height, width), (target_height, target_width) = size_of(pixels), self.image_size
        scale = max(target_height / height, target_width / width)
        size = (max(target_height, round(height * scale)), max(target_width, round(width * scale)))
        if size != (height, width):
            # As torchvision's resize, which hands uint8 to the same kernel.
            pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
        top, left = (size[0] - target_height) // 2, (size[1] - target_width) // 2
        return pixels[:, top : top + target_height, left : left + target_width]


def _to_tensor(image: Image.Image, channels: int) -> Tensor:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns when it goes straight to RGB
    pixels = torch.from_numpy(np.array(image.convert("L" if channels == 1 else "RGB")))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _to_gray(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma in PIL's integers, so that a tensor and a file give the same levels."""
    red, green, blue = pixels.int()
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8)[None]
