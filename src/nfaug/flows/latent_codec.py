"""The codec of flows on autoencoder latents: images to scaled latents and back."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..io.progress import progress_bar
from ..run.device import PerDevice
from .autoencoder import AutoencoderConfig, weights_sha256
from .codec import Codec, check_levels, crop, pad
from .config import FlowConfig

# Pixels that the autoencoder processes at a time, since it needs much memory per image. A CPU is
# fastest with as many as its caches hold.
_PIXELS_AT_ONCE = 2**20  # 16 images of 256 x 256
_PIXELS_AT_ONCE_ON_CPU = 2**16  # 4 images of 128 x 128


class _Placed(NamedTuple):
    """An autoencoder, and mean and standard deviation (C, 1, 1) of its latents, on one device."""

    autoencoder: Any
    mean: Tensor
    std: Tensor


class LatentCodec(Codec):
    """The codec of a flow on an autoencoder's latents: v = (E(x) - m)/s + w(e - 1/2).

    E(x) are the latents of an image x in the autoencoder's range, the mode of the posterior if it
    has one. m and s are the mean and standard deviation of each latent channel over training
    images, w is the width of the noise and e in [0, 1) the noise, 1/2 for none. The inverse is
    x = D(s v + m). Autoencoders lose detail, so `exact` is False, and `NFAugment` adds only the
    change, which keeps what the autoencoder loses. Bits per dimension of latents are not
    comparable with those of pixels or of another w.

    Copies of a flow share the autoencoder, which stays on its device: images on another one get a
    copy there, which is kept.

    Args:
        autoencoder: A frozen autoencoder that `nfaug.flows.autoencoder.Autoencoder` describes.
        config: The checkpoint's record.

    Raises:
        ValueError: If the autoencoder has other image or latent channels than the record.
    """

    exact: bool = False
    figure: str = "latent_bits_per_dim"
    record: AutoencoderConfig
    noise: float
    latent_shape: tuple[int, int, int]
    _autoencoder: Any

    def __init__(self, autoencoder: Any, config: AutoencoderConfig) -> None:
        shape = _latent_shape(autoencoder, config)
        super().__init__(config.channels, config.image_size, shape, shape[1:])
        self.latent_shape = shape
        self.record = config
        self.noise = config.noise
        self._autoencoder = autoencoder
        self._copies: PerDevice[Any] = PerDevice()
        self._scales: PerDevice[Tensor] = PerDevice()

    def for_flow(self, config: FlowConfig) -> LatentCodec:
        """Return the codec with the padding of a flow.

        Raises:
            ValueError: If the flow's shape is not that of the latents.
        """
        flow_shape = (config.channels, *config.image_size)
        if flow_shape != self.latent_shape:
            raise ValueError(
                f"the autoencoder encodes {self.image_size} images to latents of shape "
                f"{self.latent_shape}; the flow takes {flow_shape}"
            )
        codec = copy.copy(self)
        codec.padded_size = config.size
        return codec

    def _on(self, device: torch.device) -> _Placed:
        """The autoencoder and the scale of its latents on a device, copied there once."""
        autoencoder = self._autoencoder
        if _is_elsewhere(autoencoder, device):
            autoencoder = self._copies.on(device, self._copied)
        mean, std = self._scales.on(device, self._scale)
        return _Placed(autoencoder, mean, std)

    def _copied(self, device: torch.device) -> Any:
        return copy.deepcopy(self._autoencoder).to(device)

    def _scale(self, device: torch.device) -> Tensor:
        """Mean and standard deviation of the latents, (2, C, 1, 1)."""
        moments = [self.record.mean, self.record.std]
        return torch.tensor(moments, device=device, dtype=torch.float32)[..., None, None]

    @torch.no_grad()
    def prepare(self, images: Tensor) -> Tensor:
        """Return (E(x) - m)/s of uint8 images or of floating-point gray levels in [0, 255].

        A floating-point tensor of the latents' shape is the result of an earlier call and returned
        as it is. It may hold several views of each image, of shape (B, views, C, H, W); then the
        first view is returned.
        """
        first_view = images
        if images.dim() == 5:
            first_view = images[:, 0]
        if first_view.is_floating_point() and tuple(first_view.shape[1:]) == self.latent_shape:
            return first_view.to(torch.float32)
        check_levels(images, self.channels, self.image_size)
        placed = self._on(images.device)
        low, high = placed.autoencoder.input_range

        def encode(levels: Tensor) -> Tensor:
            return placed.autoencoder.encode(levels.to(torch.float32) * ((high - low) / 255) + low)

        latents = self._in_parts(encode, images, self.latent_shape)
        return (latents - placed.mean) / placed.std

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        padded = pad(prepared, self.padded_size)
        if noise is None:
            return padded
        return padded + self.noise * (noise - 0.5)

    @torch.no_grad()
    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        placed = self._on(v.device)
        scaled = crop(v, self.latent_shape[1:]).to(torch.float32)
        latents = scaled * placed.std + placed.mean
        image_shape = (self.channels, *self.image_size)
        images = self._in_parts(placed.autoencoder.decode, latents, image_shape)
        low, high = placed.autoencoder.input_range
        unit = ((images - low) / (high - low)).clamp(0, 1)
        if not quantize:
            return unit
        # NaN becomes gray.
        return (torch.nan_to_num(unit, 0.5) * 255).round().to(torch.uint8)

    def images_at_once(self, device: torch.device | str) -> int:
        """The images that the autoencoder processes at a time."""
        pixels = _PIXELS_AT_ONCE
        if torch.device(device).type == "cpu":
            pixels = _PIXELS_AT_ONCE_ON_CPU
        return max(1, pixels // math.prod(self.image_size))

    def _in_parts(
        self, function: Callable[[Tensor], Tensor], batch: Tensor, shape: tuple[int, int, int]
    ) -> Tensor:
        """Apply a function to a few images at a time; `shape` is that of one result."""
        results = torch.empty(len(batch), *shape, device=batch.device, dtype=torch.float32)
        images = self.images_at_once(batch.device)
        for start in range(0, len(batch), images):
            part = batch[start : start + images]
            result = results[start : start + images]
            output = function(part.contiguous(memory_format=torch.channels_last))
            if output.shape != result.shape:
                raise ValueError(
                    f"the autoencoder made {tuple(output.shape)} of {tuple(part.shape)}, where its "
                    f"latent_channels and factor say {tuple(result.shape)}"
                )
            result.copy_(output)
        return results

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentCodec:
        return self


class UnopenedCodec(Codec):
    """The codec of a flow on latents whose autoencoder is not at hand.

    The flow can be checked, pushed and saved, but encodes and decodes no image.

    Args:
        config: The shape of the flow.
        record: The checkpoint's record of the autoencoder.
    """

    def __init__(self, config: FlowConfig, record: AutoencoderConfig) -> None:
        super().__init__(record.channels, record.image_size, config.shape, config.size)
        self.record = record
        self.noise = record.noise

    def prepare(self, images: Tensor) -> Tensor:
        raise self._error()

    def dequantize(self, prepared: Tensor, noise: Tensor | float | None = None) -> Tensor:
        raise self._error()

    def to_images(self, v: Tensor, *, quantize: bool = True) -> Tensor:
        raise self._error()

    def _error(self) -> ValueError:
        assert self.record is not None
        return ValueError(f"the autoencoder {self.record.name!r} of this flow was not opened")


def measure_codec(
    autoencoder: Any,
    images: Tensor,
    *,
    kind: str = "object",
    name: str = "",
    noise: float = 1 / 64,
    progress: bool = False,
) -> LatentCodec:
    """Measure the mean and standard deviation of the latent channels of an autoencoder.

    Args:
        autoencoder: A frozen `nfaug.flows.autoencoder.Autoencoder`, on the device of the images.
        images: uint8 of shape (N, C, H, W), a few hundred from the training set.
        kind, name: For the checkpoint's record; by default those of an object.
        noise: The width w of the dequantisation noise, in standard deviations.
        progress: Show a bar.

    Raises:
        ValueError: If the autoencoder takes other images, or a latent channel is constant.
    """
    config = AutoencoderConfig(
        kind=kind,
        name=name or type(autoencoder).__name__,
        sha256=weights_sha256(autoencoder.state_dict()),
        channels=images.shape[1],
        image_size=(images.shape[2], images.shape[3]),
        mean=(0.0,) * autoencoder.latent_channels,
        std=(1.0,) * autoencoder.latent_channels,
        noise=noise,
    )
    codec = LatentCodec(autoencoder, config)
    parts = images.split(codec.images_at_once(images.device))
    encoded = []
    with progress_bar(len(images), "scale of latents", "image", shown=progress) as bar:
        for part in parts:
            encoded.append(codec.prepare(part))
            bar.update(len(part))
    latents = torch.cat(encoded)
    codec.to_images(latents[:1])  # raises if the decoder makes images of another shape
    latents = latents.cpu().double()  # an Apple GPU has no float64
    mean = latents.mean((0, 2, 3)).tolist()
    std = latents.std((0, 2, 3)).tolist()
    config = dataclasses.replace(config, mean=tuple(mean), std=tuple(std))
    return LatentCodec(autoencoder, config)


def _is_elsewhere(autoencoder: Any, device: torch.device) -> bool:
    """Whether a module has tensors on another device: a caller may have moved it."""
    tensors = itertools.chain(autoencoder.parameters(), autoencoder.buffers())
    return any(tensor.device != device for tensor in itertools.islice(tensors, 1))


def _latent_shape(autoencoder: Any, config: AutoencoderConfig) -> tuple[int, int, int]:
    """(C, H, W) of the latents, without padding, after a check that the images fit."""
    factor = autoencoder.factor
    size = config.image_size
    channels = getattr(autoencoder, "channels", 3)
    if channels != config.channels:
        raise ValueError(
            f"the autoencoder takes {channels} channels, the images have {config.channels}: open "
            f"them with channels={channels} (nfaug fit --channels {channels})"
        )
    if factor < 2 or any(n % factor for n in size):
        raise ValueError(
            f"the autoencoder's factor {factor} must be at least 2 and divide the image size "
            f"{size}: choose another size (image_size=, --image-size)"
        )
    return len(config.mean), size[0] // factor, size[1] // factor
