"""Pixel formats of image batches: types, ranges, normalization and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..data.preprocess import round_levels

__all__ = [
    "Normalization",
    "all_finite",
    "check_images",
    "check_range",
    "replace_non_finite",
    "resize",
    "resize_levels",
    "to_pil",
]

_LEVELS = "Divide mean and std by 255 if they are in grey levels"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Normalization:
    """Mean and std of normalized images: x * std + mean lies in [0, 1].

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
        if self.mean is not None and not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean must be in [0, 1]; got {self.mean}. {_LEVELS}")
        if self.std is not None and not all(0 < std <= 1 for std in self.std):
            raise ValueError(f"std must be positive and at most 1; got {self.std}. {_LEVELS}")
        self._held: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __bool__(self) -> bool:
        return self.mean is not None

    def unit(self, images: Tensor) -> Tensor:
        """Float32 images in [0, 1] of normalized images."""
        unit = images.to(torch.float32)
        if not self:
            return unit
        mean, std = self._on(images.device)
        return unit * std + mean

    def undo(self, unit: Tensor) -> Tensor:
        """Normalized images of images in [0, 1]."""
        if not self:
            return unit
        mean, std = self._on(unit.device)
        return (unit - mean) / std

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._held:
            values = torch.tensor([self.mean, self.std], dtype=torch.float32, device=device)
            mean, std = values[:, None, :, None, None]
            self._held[device] = mean, std
        return self._held[device]

    def __getstate__(self) -> dict[str, object]:
        return {"mean": self.mean, "std": self.std, "_held": {}}


def _per_channel(name: str, value: Sequence[float] | float, channels: int) -> tuple[float, ...]:
    listed: Any = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(listed, (int, float)):
        listed = list(listed)
    values = torch.tensor(listed, dtype=torch.float64, device="cpu").flatten().tolist()
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name} must have 1 or {channels} values, one for each channel; got {value}"
        )
    return tuple(values) if len(values) > 1 else (values[0],) * channels


def check_images(images: Tensor, channels: int) -> None:
    """Check that images are a batch for a flow of `channels` channels. Reads no value.

    Raises:
        ValueError: Shape, type or number of channels do not match.
    """
    if images.ndim != 4:
        raise ValueError(
            f"images must be a batch of shape (B, C, H, W); got shape {tuple(images.shape)}"
        )
    if images.dtype != torch.uint8 and images.dtype not in _FLOATS:
        raise ValueError(
            f"images must be uint8, or floating point in [0, 1] or normalized; got {images.dtype}"
        )
    if images.shape[1] != channels:
        hint = {
            (1, 3): "convert the RGB images to grayscale, or use an RGB flow",
            (3, 1): "use a grayscale flow",
        }.get((channels, images.shape[1]), "use a flow trained on such images")
        if images.shape[3] == channels:
            hint = "the order seems to be (B, H, W, C); pass images.permute(0, 3, 1, 2)"
        raise ValueError(
            f"images have {images.shape[1]} channels (shape {tuple(images.shape)}), the flow has "
            f"{channels}: {hint}"
        )
    if 0 in images.shape[2:]:
        raise ValueError(f"images have no pixels: shape {tuple(images.shape)}")


def check_range(images: Tensor, normalization: Normalization) -> None:
    """Check that floating-point images lie in [0, 1], once normalization is undone. Reads values.

    Non-finite values pass (see `replace_non_finite`). The tolerance is 0.01 without normalization,
    for the overshoot of interpolation, and max(1, 7 std) with it, for random erasing, which fills
    with normal noise.

    Raises:
        ValueError: Values lie outside this range.
    """
    if not images.is_floating_point() or not images.numel():
        return
    unit = torch.where(torch.isfinite(images), normalization.unit(images), 0.5)
    low, high = float(unit.min()), float(unit.max())
    slack = max(1.0, 7 * max(normalization.std)) if normalization.std else 0.01
    if -slack <= low and high <= 1 + slack:
        return
    if normalization:
        raise ValueError(
            f"images must lie in [0, 1] once normalization by mean {normalization.mean} and std "
            f"{normalization.std} is undone; got values from {low:.3g} to {high:.3g}. Pass the "
            "mean and std that the images are normalized by"
        )
    raise ValueError(
        f"floating-point images must lie in [0, 1]; got values from {low:.3g} to {high:.3g}. Pass "
        "mean= and std= if they are normalized, or divide by 255"
    )


def all_finite(images: Tensor) -> Tensor:
    """Whether all values of an image or latent are finite, (B,) bool."""
    if not images.is_floating_point():
        return torch.ones(len(images), dtype=torch.bool, device=images.device)
    return torch.isfinite(images).flatten(1).all(1)


def replace_non_finite(images: Tensor, normalization: Normalization) -> Tensor:
    """Replace infinity by white, -infinity by black and NaN by mid-grey."""
    one = torch.ones_like(images[:1, :, :1, :1], dtype=torch.float32)
    black, grey, white = (
        normalization.undo(level * one).to(images.dtype) for level in (0.0, 0.5, 1.0)
    )
    known = torch.where(images > 0, white, torch.where(images < 0, black, grey))
    return torch.where(torch.isfinite(images), images, known)


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


def resize_levels(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """Images in grey levels [0, 255], of any type, resized and rounded to uint8."""
    return round_levels(resize(levels.float(), size)).to(torch.uint8)
