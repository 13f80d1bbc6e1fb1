"""The codec of flows on autoencoder latents: images to scaled latents and back."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .autoencoder import CLASSES, AutoencoderConfig, open_autoencoder, weights_sha256
from .codec import Codec, check_levels, crop, pad
from .config import FlowConfig

__all__ = ["LatentCodec", "measure_codec"]

_PIXELS_AT_ONCE = 2**20  # 16 images of 256 x 256: autoencoders need much memory per image


class LatentCodec(Codec):
    """The codec of a flow on an autoencoder's latents: v = (E(x) - m)/s + w(e - 1/2).

    E(x) are the latents of an image x in [-1, 1], the mode of the posterior if the autoencoder has
    one. m and s are the mean and standard deviation of each latent channel over training images, w
    is the width of the noise and e in [0, 1) the noise, 1/2 for none. The inverse is
    x = D(s v + m). Autoencoders lose detail, so `exact` is False, and `NFAugment` adds only the
    change, which preserves detail. Bits per dimension of latents are not comparable with those of
    pixels or of another w.

    Copies of a flow share the autoencoder, which moves to the device of the images.

    Args:
        autoencoder: A frozen autoencoder of a class in `nfaug.flows.autoencoder.CLASSES`.
        config: The checkpoint's record.

    Raises:
        ValueError: If the autoencoder has other image or latent channels than the record.
    """

    exact = False
    figure = "latent_bits_per_dim"
    record: AutoencoderConfig

    def __init__(self, autoencoder: Any, config: AutoencoderConfig) -> None:
        self.latent_shape = _latent_shape(autoencoder, config)
        super().__init__(
            config.channels, config.image_size, self.latent_shape, self.latent_shape[1:]
        )
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
        if self._autoencoder.device != device:
            self._autoencoder.to(device)
        scale = torch.tensor([self.record.mean, self.record.std], device=device)
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

        def latents(part: Tensor) -> Tensor:
            output = autoencoder.encode(part.to(torch.float32) / 127.5 - 1)
            return CLASSES[type(autoencoder).__name__](output)

        return (self._in_parts(latents, images, self.latent_shape) - mean) / std

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        padded = pad(prepared, self.padded_size)
        return padded if noise is None else padded + self.noise * (noise - 0.5)

    @torch.no_grad()
    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        autoencoder, mean, std = self._on(v.device)
        latents = crop(v, self.latent_shape[1:]).to(torch.float32) * std + mean
        size = (self.channels, *self.image_size)
        images = self._in_parts(lambda part: autoencoder.decode(part).sample, latents, size)
        unit = ((images + 1) / 2).clamp(0, 1)
        if quantize:  # values that are not finite become grey
            return (torch.nan_to_num(unit, 0.5) * 255).round().to(torch.uint8)
        return unit

    def _in_parts(
        self, function: Callable[[Tensor], Tensor], batch: Tensor, shape: tuple[int, int, int]
    ) -> Tensor:
        """Apply a function to a few images at a time; `shape` is that of one result."""
        if not len(batch):
            return torch.empty(0, *shape, device=batch.device)
        parts = batch.split(max(1, _PIXELS_AT_ONCE // math.prod(self.image_size)))
        return torch.cat([function(part) for part in parts])

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentCodec:
        return self


def measure_codec(
    source: str | Path, images: Tensor, *, noise: float = 1 / 64, device: torch.device | str = "cpu"
) -> LatentCodec:
    """Open an autoencoder and measure the mean and standard deviation of its latent channels.

    Args:
        source: The autoencoder's directory or repository.
        images: uint8 of shape (N, C, H, W), a few hundred from the training set.
        noise: The width w of the dequantisation noise, in standard deviations.
        device: Where to run the autoencoder.

    Raises:
        ValueError: If the autoencoder takes other images, or a latent channel is constant.
        OSError: See `open_autoencoder`, also for ModuleNotFoundError and ValueError.
    """
    autoencoder = open_autoencoder(source).to(device)
    folder = Path(source).expanduser()
    local = folder.is_dir()
    channels = autoencoder.config.latent_channels
    config = AutoencoderConfig(
        kind="directory" if local else "hub",
        name=folder.resolve().name if local else str(source),
        sha256=weights_sha256(autoencoder),
        channels=images.shape[1],
        image_size=(images.shape[2], images.shape[3]),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        noise=noise,
    )
    latents = LatentCodec(autoencoder, config).prepare(images.to(device)).double()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    config = dataclasses.replace(config, mean=(*mean.tolist(),), std=(*std.tolist(),))
    return LatentCodec(autoencoder, config)


def _latent_shape(autoencoder: Any, config: AutoencoderConfig) -> tuple[int, int, int]:
    settings = autoencoder.config
    resolutions = settings.get("block_out_channels") or settings["encoder_block_out_channels"]
    factor = 2 ** (len(resolutions) - 1)
    taken = settings.in_channels, settings.get("out_channels", settings.in_channels)
    if taken != (config.channels, config.channels):
        raise ValueError(
            f"the autoencoder has {taken[0]} input and {taken[1]} output channels, the images "
            f"{config.channels}: open them with channels={taken[0]} (--dataset.channels {taken[0]})"
        )
    if factor < 2 or any(n % factor for n in config.image_size):
        raise ValueError(
            f"the autoencoder's reduction factor {factor} must be at least 2 and divide the image "
            f"size {config.image_size}"
        )
    height, width = (n // factor for n in config.image_size)
    return len(config.mean), height, width
