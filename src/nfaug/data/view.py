"""What is made of a stored image: its channels and its size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..io.numbers import as_size, check_side
from .image_files import to_8_bits
from .resize import (
    as_pixels,
    centre,
    channels_of,
    resize_levels,
    resized_size,
    shortened,
    size_of,
    strips,
)

SIDE = 128  # the largest default side, in pixels, of images that differ in size
# What errors about images that differ in size propose.
RESIZE = (
    "pass --image-size, or in Python image_size=64 (nfaug.open_dataset and make_bank take it), to "
    "resize and crop every image"
)


class Header(NamedTuple):
    """Channels, and (height, width) in pixels, of a stored image."""

    channels: int
    size: tuple[int, int]


class Wanted(NamedTuple):
    """The images that are wanted, as by a flow.

    Attributes:
        channels: Their channels; None for any.
        image_size: Their (height, width) in pixels; None for any.
    """

    channels: int | None = None
    image_size: tuple[int, int] | None = None

    def chosen(
        self, channels: int | None = None, image_size: int | tuple[int, int] | None = None
    ) -> Wanted:
        """The same with channels and a size that a user has chosen, if it leaves them open.

        Raises:
            ValueError: It does not, and has others.
        """
        if channels not in (None, self.channels) and self.channels is not None:
            raise ValueError(
                f"channels={channels}, but this checkpoint takes images of {self.channels}: "
                "leave it out, or fit one of any shape, such as builtin:pixels, with "
                f"channels={channels} (nfaug fit --channels {channels})"
            )
        size = None if image_size is None else check_side(as_size(image_size))
        if size not in (None, self.image_size) and self.image_size is not None:
            raise ValueError(
                f"image_size={image_size} is for flows of any size, such as builtin:pixels; this "
                f"flow takes images of {self.image_size}, and others are resized to that"
            )
        return Wanted(self.channels or channels, self.image_size or size)


@dataclass(frozen=True)
class View:
    """Convert an image to a contiguous uint8 tensor of shape (channels, H, W).

    16 bits are scaled to 8. Channels are converted between 1 and 3 as PIL does; transparency is
    dropped. An image of another size is resized until its shorter side fits (bilinear,
    antialiased), and its centre is cropped, which keeps the aspect ratio. Of an image more than
    four times as long as what is kept, the centre is cropped first, and large images are converted
    in strips: memory stays small.

    Args:
        channels: Channels of the result.
        image_size: (H, W) of the result, in pixels; None for the size of each image.
        convert: Whether a color image may become grayscale; if not, it is an error.
        resize: Whether an image of another size is resized; if not, it is an error.
    """

    channels: int
    image_size: tuple[int, int] | None
    convert: bool = True
    resize: bool = True

    @classmethod
    def for_(
        cls,
        wanted: Wanted,
        stored: Mapping[str, Header],
        most: int | None = SIDE,
        *,
        convert: bool = True,
        shrink: bool = False,
    ) -> View:
        """The view of images that are stored so, by the only rule of sizes.

        The size is the one that is wanted. If none is, it is that of the stored images. If they
        differ, it is a square, with a warning, whose side is their median shorter side and at most
        `most`; with None each image keeps its own.

        Args:
            wanted: The channels and the size that are wanted. Without channels, images are gray
                if all stored ones are.
            stored: Headers of some of the stored images, by the names of the images.
            most: The longest side that is chosen here, in pixels.
            convert: Whether color images may become gray where one channel is wanted.
            shrink: Whether a common size of the stored images is scaled down, too, until no side
                is longer than `most`.

        Raises:
            ValueError: A stored image cannot be converted.
        """
        channels = wanted.channels or max(header.channels for header in stored.values())
        view = cls(
            channels,
            wanted.image_size,
            convert=convert and wanted.channels is not None,
            resize=wanted.image_size is not None,
        )
        sizes = [header.size for header in stored.values()]
        if view.image_size is None and len(set(sizes)) == 1:
            view = replace(view, image_size=sizes[0])
            if shrink and most is not None:
                view = view.shrunk(most)
        elif view.image_size is None and most is not None:
            side = min(most, sorted(map(min, sizes))[len(sizes) // 2])
            warnings.warn(
                f"the images differ in size; they are resized and cropped to {side} x {side} "
                "pixels. image_size (--image-size) chooses another size",
                stacklevel=4,
            )
            view = replace(view, image_size=(side, side), resize=True)
        for name, (stored_channels, size) in stored.items():
            view.check(stored_channels, size, name)
        return view

    def shrunk(self, most: int) -> View:
        """The view whose sides are scaled until none is longer than `most` pixels."""
        assert self.image_size is not None
        height, width = self.image_size
        if max(height, width) <= most:
            return self
        scale = most / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return replace(self, image_size=size, resize=True)

    def __call__(self, image: Image.Image | Tensor, name: str) -> Tensor:
        """Convert a PIL image or a uint8 tensor (C, H, W); `name` is for the messages.

        Raises:
            ValueError: If the image does not fit and must not be converted or resized.
        """
        self.check(channels_of(image), size_of(image), name)
        kept = self.image_size or size_of(image)
        image = shortened(image, kept)
        if not isinstance(image, Tensor):
            image = to_8_bits(image)
        if resized_size(size_of(image), kept) == size_of(image):
            pixels = as_pixels(image, self.channels)
        else:
            pixels = self._resize(image, kept)
        pixels = centre(pixels, kept)
        return pixels.expand(self.channels, -1, -1).contiguous()

    def check(self, channels: int, size: tuple[int, int], name: str) -> None:
        """Raise the errors of a call with an image of these channels and this (height, width)."""
        if self.channels != channels and {self.channels, channels} != {1, 3}:
            raise ValueError(
                f"{name} has {channels} channels, expected {self.channels}; only 1 and 3 are "
                "converted into each other"
            )
        if channels > self.channels and not self.convert:
            raise ValueError(
                f"{name} is a color image, and the data are read as grayscale: channels=1 "
                "(--channels 1) converts it, and channels=3 reads all images as color"
            )
        if not self.resize and self.image_size not in (None, size):
            height, width = size
            H, W = self.image_size
            raise ValueError(
                f"{name} has {height} x {width} pixels, but the first image of the dataset has "
                f"{H} x {W}; {RESIZE}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings that a checkpoint records, as JSON values."""
        settings: dict[str, Any] = {
            "channels": self.channels,
            "image_size": None,
            "resize": None,
            "interpolation": None,
            "crop": None,
        }
        if self.image_size is not None:
            settings["image_size"] = list(self.image_size)
        if self.resize:
            settings["resize"] = "shorter side"
            settings["interpolation"] = "bilinear, antialiased"
            settings["crop"] = "centre"
        return settings

    def _resize(self, image: Image.Image | Tensor, kept: tuple[int, int]) -> Tensor:
        """Resize until the shorter side fits; an image in grayscale keeps its one channel.

        The rows of a large image are resized in strips, since a file of a few kB may have 2**27
        pixels. Strips have the levels of the whole: `resize_levels` resizes rows first.
        """
        height, width = resized_size(size_of(image), kept)
        channels = min(self.channels, channels_of(image))
        rows = []
        for strip in strips(image):
            pixels = as_pixels(strip, channels)
            rows.append(resize_levels(pixels, (pixels.shape[1], width)))
        return resize_levels(torch.cat(rows, dim=1), (height, width))
