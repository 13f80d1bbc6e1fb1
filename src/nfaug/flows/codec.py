"""8-bit images to flow space and back.

A flow has a codec: `PixelCodec`, made of the functions in this module, or `LatentCodec` in
`nfaug.flows.latent_codec` for autoencoder latents.

An 8-bit level u in {0..255} becomes v = (u + e)/128 - 1 with e in [0, 1). With e = 1/2, the
default, each value is half a level away from its neighbours, so a float32 flow (error about 1e-5)
returns every level exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .autoencoder import AutoencoderConfig


class Codec(ABC):
    """Converts images to flow space and back, for `Flow.encode` and `Flow.decode`.

    It is not a module: flows have no parameters or state dict entries for it.

    Args:
        channels: Channels of the images.
        image_size: (height, width) of the images.
        shape: (C, H, W) of what a flow models, without padding.
        padded_size: (height, width) inside the flow.

    Attributes:
        exact: Whether `to_images` inverts `dequantize(prepare(images))` exactly.
        figure: Name of `bits_per_dim` in a checkpoint's metrics.
        record: The record of the autoencoder in a checkpoint; None for pixels.
        noise: Width w of the noise that dequantises values.
    """

    exact: bool = True
    figure: str = "bits_per_dim"
    record: AutoencoderConfig | None = None
    noise: float = 1 / 128
    channels: int
    image_size: tuple[int, int]
    shape: tuple[int, int, int]
    padded_size: tuple[int, int]

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        shape: tuple[int, int, int],
        padded_size: tuple[int, int],
    ) -> None:
        self.channels = channels
        self.image_size = image_size
        self.shape = shape
        self.padded_size = padded_size

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Check and preprocess images: the part of the conversion that does not depend on noise.

        Raises:
            ValueError: If they have a wrong shape or dtype.
        """

    @abstractmethod
    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """Dequantise prepared images into flow space, with noise e in [0, 1), None for 1/2."""

    @abstractmethod
    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        """Return images as uint8, or as floats in [0, 1] with `quantize=False`."""

    def bits_per_dim(self, nll: Tensor) -> Tensor:
        """Return (nll + d log(1/w))/(D log 2), the bits of one value to precision w.

        The flow's density covers the padded shape of d = C*H*W values. D is the number of values
        without padding, so that padding cannot improve the result.

        Args:
            nll: -log p(v) of Eq. 2 in nats.
        """
        padded_dim = self.shape[0] * math.prod(self.padded_size)
        dim = math.prod(self.shape)
        return (nll - padded_dim * math.log(self.noise)) / (dim * math.log(2))


class PixelCodec(Codec):
    """The codec of flows on 8-bit pixels: v = (u + e)/128 - 1, centred in `padded_size`."""

    def __init__(
        self, channels: int, image_size: tuple[int, int], padded_size: tuple[int, int]
    ) -> None:
        super().__init__(channels, image_size, (channels, *image_size), padded_size)

    def prepare(self, images: Tensor) -> Tensor:
        check_levels(images, self.channels, self.image_size)
        return images

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        return to_flow(pad(prepared, self.padded_size), noise)

    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        return crop(from_flow(v, quantize=quantize), self.image_size)


def check_levels(images: Tensor, channels: int, image_size: tuple[int, int]) -> None:
    """Raise ValueError unless `images` is a batch of gray levels of this shape."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(
            "encode takes uint8 images or floating-point gray levels in [0, 255]; got "
            f"{images.dtype}"
        )
    if images.dim() != 4 or tuple(images.shape[1:]) != (channels, *image_size):
        raise ValueError(
            f"this flow encodes images of shape (B, {channels}, {image_size[0]}, "
            f"{image_size[1]}); got {tuple(images.shape)}"
        )


def to_flow(levels: Tensor, noise: Tensor | float | None = None) -> Tensor:
    """Map gray levels to flow space: v = (u + e)/128 - 1.

    Args:
        levels: uint8, or floating point in [0, 255].
        noise: e in [0, 1): a tensor of the same shape to dequantise in training, None for 1/2.

    Returns:
        float64 if `levels` is float64, otherwise float32.
    """
    if noise is None:
        noise = 0.5
    floating = levels.to(torch.promote_types(levels.dtype, torch.float32))
    if floating is levels:
        floating = floating.clone()
    return floating.add_(noise).div_(128).sub_(1)  # in place: new memory costs more than sums


def from_flow(v: Tensor, *, quantize: bool = True) -> Tensor:
    """Map flow space to images: uint8 u = clamp(floor(128(v + 1)), 0, 255).

    With `quantize=False` the result is clamp((128(v + 1) - 1/2)/255, 0, 1) in floating point. In
    uint8, NaN becomes 0 and infinities are clamped.
    """
    scaled = (v + 1) * 128
    if quantize:
        return torch.nan_to_num(scaled).floor().clamp(0, 255).to(torch.uint8)
    return ((scaled - 0.5) / 255).clamp(0, 1)


def pad(levels: Tensor, padded_size: tuple[int, int]) -> Tensor:
    """Centre images on black of `padded_size` (height, width)."""
    if tuple(levels.shape[-2:]) == padded_size:
        return levels
    height = padded_size[0] - levels.shape[-2]  # of the margins above and below together
    width = padded_size[1] - levels.shape[-1]
    left = width // 2
    top = height // 2
    return F.pad(levels, (left, width - left, top, height - top))


def crop(images: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the centre of size `image_size` (height, width): the inverse of `pad`."""
    height, width = image_size
    top = (images.shape[-2] - height) // 2
    left = (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]
