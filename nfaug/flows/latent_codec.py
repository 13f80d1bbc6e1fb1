"""The codec of flows on autoencoder latents: images to scaled latents and back."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .autoencoder import (
    AutoencoderConfig,
    AutoencoderSource,
    name_of,
    open_autoencoder,
    weights_sha256,
)
from .codec import Codec, check_levels, crop, pad
from .config import FlowConfig

__all__ = ["LatentCodec", "measure_codec"]

# Autoencoders need much memory per image, and a CPU is fastest with what its caches hold.
_PIXELS_AT_ONCE, _ON_CPU = 2**20, 2**16  # 16 images of 256 x 256; 4 of 128 x 128


class LatentCodec(Codec):
    """The codec of a flow on an autoencoder's latents: v = (E(x) - m)/s + w(e - 1/2).

    E(x) are the latents of an image x in the autoencoder's range, the mode of the posterior if it
    has one. m and s are the mean and standard deviation of each latent channel over training
    images, w is the width of the noise and e in [0, 1) the noise, 1/2 for none. The inverse is
    x = D(s v + m). Autoencoders lose detail, so `exact` is False, and `NFAugment` adds only the
    change, which preserves detail. Bits per dimension of latents are not comparable with those of
    pixels or of another w.

    Copies of a flow share the autoencoder, which moves to the device of the images.

    Args:
        autoencoder: A frozen autoencoder that `nfaug.flows.autoencoder.Autoencoder` describes.
        config: The checkpoint's record.

    Raises:
        ValueError: If the autoencoder has other image or latent channels than the record.
    """

    exact = False
    figure = "latent_bits_per_dim"
    record: AutoencoderConfig

    def __init__(self, autoencoder: Any, config: AutoencoderConfig) -> None:
        self.latent_shape = shape = _latent_shape(autoencoder, config)
        super().__init__(config.channels, config.image_size, shape, shape[1:])
        self.record, self.noise = config, config.noise
        self._autoencoder = autoencoder

    def for_flow(self, config: FlowConfig) -> LatentCodec:
        """Return the codec with the padding of a flow.

        Raises:
            ValueError: If the flow's shape is not that of the latents.
        """
        if (config.channels, *config.image_size) != self.latent_shape:
            raise ValueError(
                f"the autoencoder encodes {self.image_size} images to latents of shape "
                f"{self.latent_shape}; the flow takes {(config.channels, *config.image_size)}"
            )
        codec = copy.copy(self)
        codec.padded_size = config.size
        return codec

    def _on(self, device: torch.device) -> tuple[Any, Tensor, Tensor]:
        """The autoencoder, the means and the standard deviations on a device."""
        self._autoencoder.to(device)
        moments = [self.record.mean, self.record.std]
        scale = torch.tensor(moments, device=device, dtype=torch.float32)
        return self._autoencoder, *scale[:, None, :, None, None]

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Tensor:
        """Return (E(x) - m)/s of uint8 images or of floating-point grey levels in [0, 255].

        Floating-point tensors of the latents' shape are returned as they are: they are the result
        of an earlier call. Of several views, shape (B, views, C, H, W), the first is used.
        """
        views = images[:, 0] if images.dim() == 5 else images
        if views.is_floating_point() and tuple(views.shape[1:]) == self.latent_shape:
            return views.to(torch.float32)
        check_levels(images, self.channels, self.image_size)
        autoencoder, mean, std = self._on(images.device)
        low, high = autoencoder.input_range

        def latents(part: Tensor) -> Tensor:
            return autoencoder.encode(part.to(torch.float32) * ((high - low) / 255) + low)

        return (self._in_parts(latents, images, self.latent_shape) - mean) / std

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        padded = pad(prepared, self.padded_size)
        return padded if noise is None else padded + self.noise * (noise - 0.5)

    @torch.no_grad()
    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        autoencoder, mean, std = self._on(v.device)
        latents = crop(v, self.latent_shape[1:]).to(torch.float32) * std + mean
        size = (self.channels, *self.image_size)
        low, high = autoencoder.input_range
        images = self._in_parts(autoencoder.decode, latents, size)
        unit = ((images - low) / (high - low)).clamp(0, 1)
        if quantize:  # values that are not finite become grey
            return (torch.nan_to_num(unit, 0.5) * 255).round().to(torch.uint8)
        return unit

    def _in_parts(
        self, function: Callable[[Tensor], Tensor], batch: Tensor, shape: tuple[int, int, int]
    ) -> Tensor:
        """Apply a function to a few images at a time; `shape` is that of one result."""
        done = torch.empty(len(batch), *shape, device=batch.device, dtype=torch.float32)
        pixels = _ON_CPU if batch.device.type == "cpu" else _PIXELS_AT_ONCE
        number = max(1, pixels // math.prod(self.image_size))
        for start in range(0, len(batch), number):
            part, into = batch[start : start + number], done[start : start + number]
            result = function(part.contiguous(memory_format=torch.channels_last))
            if result.shape != into.shape:
                raise ValueError(
                    f"the autoencoder made {tuple(result.shape)} of {tuple(part.shape)}, where its "
                    f"latent_channels and factor say {tuple(into.shape)}"
                )
            into.copy_(result)
        return done

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentCodec:
        return self


def measure_codec(
    source: AutoencoderSource,
    images: Tensor,
    *,
    noise: float = 1 / 64,
    device: torch.device | str = "cpu",
) -> LatentCodec:
    """Open an autoencoder and measure the mean and standard deviation of its latent channels.

    Args:
        source: The autoencoder, or its path or repository.
        images: uint8 of shape (N, C, H, W), a few hundred from the training set.
        noise: The width w of the dequantisation noise, in standard deviations.
        device: Where to run the autoencoder.

    Raises:
        ValueError: If the autoencoder takes other images, or a latent channel is constant.
        OSError: See `open_autoencoder`, also for ModuleNotFoundError, TypeError and ValueError.
    """
    autoencoder = open_autoencoder(source).to(device)
    kind, name = name_of(source)
    config = AutoencoderConfig(
        kind=kind,
        name=name,
        sha256=weights_sha256(autoencoder),
        channels=images.shape[1],
        image_size=(images.shape[2], images.shape[3]),
        mean=(0.0,) * autoencoder.latent_channels,
        std=(1.0,) * autoencoder.latent_channels,
        noise=noise,
    )
    codec = LatentCodec(autoencoder, config)
    found = codec.prepare(images.to(device))
    codec.to_images(found[:1])  # raises for images of another shape
    found = found.cpu().double()  # an Apple GPU has no float64
    mean, std = found.mean((0, 2, 3)), found.std((0, 2, 3))
    config = dataclasses.replace(config, mean=(*mean.tolist(),), std=(*std.tolist(),))
    return LatentCodec(autoencoder, config)


def _latent_shape(autoencoder: Any, config: AutoencoderConfig) -> tuple[int, int, int]:
    factor, size = autoencoder.factor, config.image_size
    channels = getattr(autoencoder, "channels", 3)
    if channels != config.channels:
        raise ValueError(
            f"the autoencoder takes {channels} channels, the images have {config.channels}: open "
            f"them with channels={channels} (--dataset.channels {channels})"
        )
    if factor < 2 or any(n % factor for n in size):
        raise ValueError(
            f"the autoencoder's factor {factor} must be at least 2 and divide the image size "
            f"{size}: choose another size (image_size=, --image-size)"
        )
    return len(config.mean), size[0] // factor, size[1] // factor
