"""8-bit images to flow space and back.

A flow has a codec: `PixelCodec`, the functions of this module, or an autoencoder's
`nfaug.flows.latent_codec.LatentCodec`.

An 8-bit level u in {0..255} becomes v = (u + e)/128 - 1 with e in [0, 1). With e = 1/2, the
default, each level sits half a level away from both of its edges, so a float32 flow (error about
1e-5) gives every level back bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .autoencoder_config import AutoencoderConfig

__all__ = [
    "Codec",
    "PixelCodec",
    "bits_per_dim",
    "check_levels",
    "crop",
    "from_flow",
    "pad",
    "to_flow",
]


class Codec(Protocol):
    """Images to flow space and back: what a flow's `encode` and `decode` do around it.

    Attributes:
        exact: whether images come back bit for bit.
        figure: name of `bits_per_dim` among a checkpoint's metrics.
    """

    exact: bool
    figure: str

    @property
    def channels(self) -> int:
        """Channels of the images."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images."""

    @property
    def record(self) -> AutoencoderConfig | None:
        """What a checkpoint says of the codec; None for pixels."""

    def prepare(self, images: Tensor) -> Tensor:
        """All of the way to flow space that is the same whatever the noise."""

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """The rest: flow space, with noise e in [0, 1) of the flow's shape, None for 1/2."""

    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        """uint8 images, or floating point in [0, 1], of flow space."""

    def bits_per_dim(self, nll: Tensor) -> Tensor:
        """Bits per dimension of -log p(v) in nats."""


@dataclass(frozen=True)
class PixelCodec:
    """The codec of a flow on 8-bit pixels: v = (u + e)/128 - 1, in the middle of `padded_size`."""

    channels: int
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    exact = True
    figure = "bits_per_dim"
    record = None

    def prepare(self, images: Tensor) -> Tensor:
        """The images, uint8 or floating-point grey levels in [0, 255].

        Raises:
            ValueError: they have another shape, or another integer type.
        """
        check_levels(images, self.channels, self.image_size)
        return images

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        return to_flow(pad(prepared, self.padded_size), noise)

    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        return crop(from_flow(v, quantize=quantize), self.image_size)

    def bits_per_dim(self, nll: Tensor) -> Tensor:
        shape = self.channels, *self.padded_size
        return bits_per_dim(nll, math.prod(shape), self.channels * math.prod(self.image_size))


def check_levels(images: Tensor, channels: int, image_size: tuple[int, int]) -> None:
    """Refuse what is no batch of grey levels of this shape.

    Raises:
        ValueError: says what arrived.
    """
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(
            "encode takes uint8 images, or floating-point grey levels in [0, 255]; got "
            f"{images.dtype}"
        )
    if images.dim() != 4 or tuple(images.shape[1:]) != (channels, *image_size):
        raise ValueError(
            f"this flow encodes images of shape (B, {channels}, {image_size[0]}, "
            f"{image_size[1]}); got {tuple(images.shape)}"
        )


def to_flow(levels: Tensor, noise: Tensor | float | None = None) -> Tensor:
    """Map grey levels to flow space: v = (u + e)/128 - 1.

    `levels` is uint8, or floating point in [0, 255] for images that are not on the 8-bit grid.
    `noise` is e in [0, 1): a tensor of the same shape to dequantise in training, None for 1/2.
    The result is float32 (float64 if `levels` is).
    """
    floating = levels if levels.is_floating_point() else levels.to(torch.float32)
    if floating.dtype in (torch.float16, torch.bfloat16):
        floating = floating.to(torch.float32)
    return (floating + (0.5 if noise is None else noise)) / 128 - 1


def from_flow(v: Tensor, *, quantize: bool = True) -> Tensor:
    """Map flow space to images: uint8 u = clamp(floor(128(v + 1)), 0, 255).

    With `quantize=False` the result is clamp((128(v + 1) - 1/2)/255, 0, 1), floating point.
    A value that is not finite has no level: quantised, NaN becomes 0 and an infinity is clamped.
    """
    scaled = (v + 1) * 128
    if quantize:
        return torch.nan_to_num(scaled).floor().clamp(0, 255).to(torch.uint8)
    return ((scaled - 0.5) / 255).clamp(0, 1)


def bits_per_dim(nll: Tensor, flow_dim: int, image_dim: int | None = None) -> Tensor:
    """Bits per dimension of 8-bit images: (nll + d log 128)/(d log 2).

    `nll` is -log p(v) of Eq. 2 in nats and d = C*H*W. Where images are padded for the flow, the
    change of variables covers all `flow_dim` coordinates and the bits are shared among the
    `image_dim` that a user sees, so padding never flatters the figure.
    """
    image_dim = flow_dim if image_dim is None else image_dim
    return (nll + flow_dim * math.log(128)) / (image_dim * math.log(2))


def _margins(image_size: tuple[int, int], padded_size: tuple[int, int]) -> tuple[int, int]:
    return (padded_size[0] - image_size[0]) // 2, (padded_size[1] - image_size[1]) // 2


def pad(levels: Tensor, padded_size: tuple[int, int]) -> Tensor:
    """Centre images on a black canvas of `padded_size` (height, width)."""
    height, width = levels.shape[-2:]
    if (height, width) == padded_size:
        return levels
    top, left = _margins((height, width), padded_size)
    return F.pad(levels, (left, padded_size[1] - width - left, top, padded_size[0] - height - top))


def crop(images: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Undo `pad`: the centre of size `image_size` (height, width)."""
    if tuple(images.shape[-2:]) == image_size:
        return images
    top, left = _margins(image_size, (images.shape[-2], images.shape[-1]))
    return images[..., top : top + image_size[0], left : left + image_size[1]]
