"""Pixel formats of image batches: types, ranges, normalization and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..run.device import PerDevice, to_device

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Normalization:
    """Mean and std of normalized images, a value a channel: x * std + mean lies in [0, 1].

    `mean` and `std` are None for images that are not normalized.

    Raises:
        ValueError: Only one of the two is given, a length is not 1 or `channels`, a mean is not in
            [0, 1], or a std is not in (0, 1].
    """

    def __init__(
        self,
        mean: Sequence[float] | float | None,
        std: Sequence[float] | float | None,
        channels: int,
    ) -> None:
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std must be given together; got mean={mean} and std={std}")
        self.mean = None if mean is None else _per_channel("mean", mean, channels)
        self.std = None if std is None else _per_channel("std", std, channels)
        self.pair: Tensor | None = None  # mean and std, to compute with
        if self.mean is not None:
            pair = torch.tensor((self.mean, self.std), dtype=torch.float32, device="cpu")
            self.pair = pair[:, None, :, None, None]
        self._pairs: PerDevice[Tensor] = PerDevice()  # the same, where images are

    def _on(self, device: torch.device) -> Tensor:
        """Mean and std of normalized images on a device, uploaded there by the first call."""
        pair = self.pair
        assert pair is not None
        return self._pairs.on(device, lambda there: to_device(pair, there))

    def unit(self, images: Tensor) -> Tensor:
        """Float32 images in [0, 1] of normalized or uint8 images, perhaps the same tensor."""
        unit = as_unit(images)
        if self.pair is None or images.dtype == torch.uint8:
            return unit
        mean, std = self._on(images.device)
        return torch.addcmul(mean, unit, std)

    def undo(self, unit: Tensor) -> Tensor:
        """Normalized images of images in [0, 1], perhaps the same tensor."""
        if self.pair is None:
            return unit
        mean, std = self._on(unit.device)
        return (unit - mean).div_(std)


def as_unit(images: Tensor) -> Tensor:
    """Float32 images, those of uint8 in [0, 1]; perhaps the same tensor."""
    unit = images.to(torch.float32)
    return unit.div_(255) if images.dtype == torch.uint8 else unit


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    values = tuple(np.asarray(listed, np.float64).flatten().tolist())
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name} has a number for each of {len(values)} channels, but the checkpoint is for "
            f"images of {channels}; got {value}. For images of {len(values)} channels, fit it with "
            f"channels={len(values)} (nfaug fit --channels {len(values)})"
        )
    good = all(0 <= each <= 1 and (each or name == "mean") for each in values)
    if not good:
        raise ValueError(
            f"{name} must be numbers in {'[' if name == 'mean' else '('}0, 1]; got {value}. Divide "
            "by 255 what is in gray levels"
        )
    return values * (channels // len(values))


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor without values, or one that is not stored as an array."""
    layout = "torch.nested" if tensor.is_nested else str(tensor.layout)
    if tensor.is_meta or layout != "torch.strided":
        raise ValueError(
            f"{name} must be a dense tensor with values; got {layout} on "
            f"{tensor.device.type!r}. Pass what to_dense() makes of a sparse tensor"
        )


def check_images(images: Tensor, channels: int) -> None:
    """Raise ValueError unless images are a batch for a flow of these channels. Reads no value."""
    check_dense("images", images)
    if images.dtype != torch.uint8 and images.dtype not in _FLOATS:
        raise ValueError(
            f"images must be uint8, or floating point in [0, 1] or normalized; got {images.dtype}"
        )
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise ValueError(
            f"images must have shape (B, {channels}, H, W) for this checkpoint; got "
            f"{tuple(images.shape)}. Pass images.permute(0, 3, 1, 2) if channels come last, or fit "
            "a checkpoint to images of these channels (nfaug fit --channels)"
        )


def extremes(images: Tensor) -> Tensor:
    """The smallest and the largest value of each channel, (2, B, C), which are NaN beside NaN."""
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.stack([images.amin((2, 3)), images.amax((2, 3))])
    # Reducing rows first is several times faster than all but the channels at once.
    rows = images.permute(0, 2, 3, 1).flatten(2)
    shape = (len(images), -1, images.shape[1])
    return torch.stack([rows.amin(1).view(shape).amin(1), rows.amax(1).view(shape).amax(1)])


def are_finite(found: Tensor) -> Tensor:
    """Whether all values of an image are finite, (B,) bool, from the `extremes`."""
    # NaN and infinity reach the extremes. Either minus itself is NaN.
    differences = found - found
    return (differences[0] == differences[1]).all(1)


def check_range(images: Tensor, found: Tensor, normalization: Normalization) -> None:
    """Raise ValueError unless images lie in [0, 1], once normalization is undone. Reads values.

    Values that are not finite pass. The tolerance is 0.01 without normalization, for the overshoot
    of interpolation, and max(1, 7 std) with it, for random erasing, which fills with normal noise.

    Args:
        images: Floating-point images.
        found: Their `extremes`.
        normalization: Normalization of the images.
    """
    if not images.numel():
        return
    unit = normalization.unit(found.flatten(0, 1)[:, :, None, None])
    low = float(unit.min())
    high = float(unit.max())
    if not math.isfinite(high - low):  # then all values are looked at
        unit = torch.where(torch.isfinite(images), normalization.unit(images), 0.5)
        low = float(unit.min())
        high = float(unit.max())
    slack = max(1.0, 7 * max(normalization.std)) if normalization.std else 0.01
    if not (-slack <= low and high <= 1 + slack):
        given = f"got values from {low:.3g} to {high:.3g}"
        if normalization.std:
            raise ValueError(
                f"images must lie in [0, 1] once normalization by mean {normalization.mean} and "
                f"std {normalization.std} is undone; {given}. Pass the mean= and std= that "
                "the images are normalized by"
            )
        raise ValueError(
            f"floating-point images must lie in [0, 1]; {given}. Divide by 255 or pass "
            "uint8; if the images are normalized, pass mean= and std="
        )


def seem_raw(found: Tensor, normalization: Normalization) -> bool:
    """Whether images that are said to be normalized lie in [0, 1]. Reads their `extremes`."""
    return normalization.pair is not None and float(found.min()) >= 0 and float(found.max()) <= 1


def all_finite(images: Tensor) -> Tensor:
    """Whether all values of an image or latent are finite, (B,) bool."""
    return are_finite(extremes(images))


def to_pil(pixels: np.ndarray) -> Any:
    """A PIL image of uint8 (H, W, C), or the array if the number of channels is not 1 or 3."""
    if pixels.shape[-1] not in (1, 3):
        return np.array(pixels)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(pixels))


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing, with antialiasing when the size shrinks."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
