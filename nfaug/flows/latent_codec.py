"""Images to the scaled latents of a frozen autoencoder, and back: the other codec of a flow."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .autoencoder import find_autoencoder, open_autoencoder, weights_sha256
from .autoencoder_config import AutoencoderConfig
from .codec import bits_per_dim, check_levels, crop, pad
from .config import FlowConfig

__all__ = ["LatentCodec", "codec_of", "measure_codec"]

_PIXELS_AT_ONCE = 2**20  # 16 images of 256 x 256: an autoencoder needs much memory for each


class LatentCodec:
    """The codec of a flow on an autoencoder's latents: v = (E(x) - m)/s + w(e - 1/2).

    E(x) is the mode of the autoencoder's posterior for an image x in [-1, 1]; m and s are mean and
    standard deviation of each latent channel over training images, w the width of the noise, e in
    [0, 1) and 1/2 where there is none. Back: x = D(s v + m). The autoencoder loses detail:
    `exact` is False, and `NFAugment` adds to an image only what mixing changes of its
    reconstruction.

    A plain object like `Engine`: the flow that has it has no parameters or `state_dict` entries for
    it, copies of the flow share it, and it follows the device of the images.

    Args:
        autoencoder: a frozen `AutoencoderKL`.
        config: what a checkpoint records.
        padded_size: (height, width) that the flow works at, None for that of the latents.

    Raises:
        ValueError: the autoencoder takes other images, or gives other latents.
    """

    exact = False
    figure = "latent_bits_per_dim"

    def __init__(
        self,
        autoencoder: Any,
        config: AutoencoderConfig,
        padded_size: tuple[int, int] | None = None,
    ) -> None:
        self.record = config
        self.latent_shape = _latent_shape(autoencoder, config)
        self.padded_size = padded_size or self.latent_shape[1:]
        self._home = autoencoder.device
        self._held: dict[torch.device, tuple[Any, Tensor, Tensor]] = {
            self._home: (autoencoder, *_scale(config, self._home))
        }

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.record.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.record.image_size

    def for_flow(self, config: FlowConfig) -> LatentCodec:
        """The same for a flow of this shape.

        Raises:
            ValueError: its shape is not that of the latents.
        """
        if (config.channels, *config.image_size) != self.latent_shape:
            raise ValueError(
                f"the autoencoder makes latents of shape {self.latent_shape} of "
                f"{self.image_size} images; the flow takes {(config.channels, *config.image_size)}"
            )
        codec = copy.copy(self)
        codec.padded_size = config.size
        return codec

    def _on(self, device: torch.device) -> tuple[Any, Tensor, Tensor]:
        if device not in self._held:
            moved = copy.deepcopy(self._held[self._home][0]).to(device)
            self._held[device] = (moved, *_scale(self.record, device))
        return self._held[device]

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Tensor:
        """(E(x) - m)/s of uint8 images, or of floating-point grey levels in [0, 255].

        Floating-point tensors of the latents' shape are taken for what an earlier call gave, and
        (B, views, C, H, W) for several of each image, of which the first is taken.

        Raises:
            ValueError: the images have another shape, or another integer type.
        """
        views = images[:, 0] if images.dim() == 5 else images
        if views.is_floating_point() and tuple(views.shape[1:]) == self.latent_shape:
            return views.to(torch.float32)
        check_levels(images, self.channels, self.image_size)
        autoencoder, mean, std = self._on(images.device)
        latents = [
            autoencoder.encode(part.to(torch.float32) / 127.5 - 1).latent_dist.mode()
            for part in self._parts(images)
        ]
        return (_joined(latents, images, self.latent_shape) - mean) / std

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """Latents on a margin of zeros where the flow is larger, with noise w(e - 1/2)."""
        padded = pad(prepared, self.padded_size)
        return padded if noise is None else padded + self.record.noise * (noise - 0.5)

    @torch.no_grad()
    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        """D(s v + m) as uint8, or floating point in [0, 1] with `quantize=False`.

        Quantised, what is not finite becomes grey.
        """
        autoencoder, mean, std = self._on(v.device)
        latents = crop(v, self.latent_shape[1:]).to(torch.float32) * std + mean
        size = (self.channels, *self.image_size)
        images = [autoencoder.decode(part).sample for part in self._parts(latents)]
        unit = ((_joined(images, latents, size) + 1) / 2).clamp(0, 1)
        if quantize:
            return (torch.nan_to_num(unit, 0.5) * 255).round().to(torch.uint8)
        return unit

    def bits_per_dim(self, nll: Tensor) -> Tensor:
        """(nll + d log(1/w))/(d log 2): bits that tell a latent coordinate to a width of w.

        As for 8-bit pixels, with w for 1/128; no figure of pixels, or of another w, compares.
        """
        dim = self.latent_shape[0] * math.prod(self.padded_size)
        seen = math.prod(self.latent_shape)
        return bits_per_dim(nll - dim * (math.log(128) + math.log(self.record.noise)), dim, seen)

    def _parts(self, batch: Tensor) -> Iterable[Tensor]:
        if not len(batch):
            return ()
        return batch.split(max(1, _PIXELS_AT_ONCE // math.prod(self.image_size)))

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentCodec:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {self._home: self._held[self._home]}}


def codec_of(
    config: AutoencoderConfig, flow: FlowConfig, *, near: Path, given: str | Path | None = None
) -> LatentCodec:
    """The codec that a checkpoint in the directory `near` records; see `find_autoencoder`."""
    return LatentCodec(find_autoencoder(config, near=near, given=given), config).for_flow(flow)


def measure_codec(
    source: str | Path, images: Tensor, *, noise: float = 1 / 64, device: torch.device | str = "cpu"
) -> LatentCodec:
    """An autoencoder with the mean and standard deviation of its latents' channels on images.

    `images` are uint8 (N, C, H, W), some hundreds drawn from the training set; `noise` is w.

    Raises:
        ValueError: the autoencoder takes other images, a latent channel does not vary, or see
            `open_autoencoder`, also for OSError and ModuleNotFoundError.
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
    if not bool((std > 0).all()):
        raise ValueError(
            f"channels of the latents of {str(source)!r} do not vary over {len(images)} images "
            f"(standard deviations {std.tolist()}): it is no trained autoencoder for them"
        )
    values = config.to_dict() | {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
    return LatentCodec(autoencoder, AutoencoderConfig(**values))


def _latent_shape(autoencoder: Any, config: AutoencoderConfig) -> tuple[int, int, int]:
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    taken = (autoencoder.config.in_channels, autoencoder.config.out_channels)
    if taken != (config.channels, config.channels):
        raise ValueError(
            f"the autoencoder takes images of {taken[0]} channels and gives {taken[1]}; these have "
            f"{config.channels}: open them with channels={taken[0]} (--dataset.channels {taken[0]})"
        )
    if factor < 2 or any(n % factor for n in config.image_size):
        raise ValueError(
            f"the autoencoder makes images smaller by {factor}: that must be at least 2 and "
            f"divide their size {config.image_size}"
        )
    channels = autoencoder.config.latent_channels
    if channels != len(config.mean):
        raise ValueError(
            f"the autoencoder has {channels} latent channels; the checkpoint says "
            f"{len(config.mean)}"
        )
    height, width = (n // factor for n in config.image_size)
    return channels, height, width


def _scale(config: AutoencoderConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    values = torch.tensor([config.mean, config.std], dtype=torch.float32, device=device)
    mean, std = values[:, None, :, None, None]
    return mean, std


def _joined(parts: list[Tensor], like: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if parts:
        return torch.cat(parts)
    return torch.empty(0, *shape, device=like.device)
