"""Image batches as training loops hold them, and the grey levels that the flow works on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Normalization",
    "all_finite",
    "check_images",
    "range_problem",
    "resize",
    "with_finite_pixels",
]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Normalization:
    """The mean and std that images were normalised by: unit = x*std + mean lies in [0, 1].

    Raises:
        ValueError: only one of the two is given, a length is not 1 or `channels`, or a std is not
            positive.
    """

    def __init__(
        self,
        mean: Sequence[float] | float | None,
        std: Sequence[float] | float | None,
        channels: int,
    ) -> None:
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std go together; got mean={mean} and std={std}")
        self.mean = None if mean is None else _per_channel("mean", mean, channels)
        self.std = None if std is None else _per_channel("std", std, channels)
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {self.std}")
        self._held: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __bool__(self) -> bool:
        return self.mean is not None

    def unit(self, images: Tensor) -> Tensor:
        """float32 images, [0, 1] being black to white."""
        unit = images.to(torch.float32)
        if not self:
            return unit
        mean, std = self._on(images.device)
        return unit * std + mean

    def undo(self, unit: Tensor) -> Tensor:
        """From [0, 1] back to the normalised range."""
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
    values = [value] if isinstance(value, (int, float)) else [float(x) for x in value]
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name} has {len(values)} values, {channels} channels need {channels} or 1: {value}"
        )
    return tuple(float(x) for x in values) if len(values) > 1 else (float(values[0]),) * channels


def check_images(images: Tensor, channels: int) -> None:
    """Refuse what cannot be a batch of images for a flow of `channels` channels.

    Raises:
        ValueError: says what arrived and what would do. No value is looked at.
    """
    if images.ndim != 4:
        raise ValueError(
            f"images must be a batch of shape (B, C, H, W); got shape {tuple(images.shape)}"
        )
    if images.dtype != torch.uint8 and images.dtype not in _FLOATS:
        raise ValueError(
            f"images must be uint8, or floating point in [0, 1] or normalised; got {images.dtype}"
        )
    if images.shape[1] != channels:
        hint = {
            (1, 3): "this is a grayscale flow and RGB images: convert them, or use an RGB flow",
            (3, 1): "this is an RGB flow and grayscale images: use a grayscale flow",
        }.get((channels, images.shape[1]), "use a flow trained on such images")
        raise ValueError(
            f"images have {images.shape[1]} channels (shape {tuple(images.shape)}), the flow has "
            f"{channels}: {hint}"
        )
    if 0 in images.shape[2:]:
        raise ValueError(f"images have no pixels: shape {tuple(images.shape)}")


def range_problem(images: Tensor, normalization: Normalization) -> str | None:
    """What is wrong with the range of floating-point images; reads values.

    Values that are not finite are let pass: `with_finite_pixels` is for them. So is, without mean
    and std, a hundredth beyond [0, 1] (interpolation overshoots), with them seven std, at least one
    whole unit (erasing fills with normal noise of the normalised images).
    """
    if not images.is_floating_point() or not images.numel():
        return None
    unit = torch.where(torch.isfinite(images), normalization.unit(images), 0.5)
    low, high = float(unit.min()), float(unit.max())
    slack = max(1.0, 7 * max(normalization.std)) if normalization.std else 0.01
    if -slack <= low and high <= 1 + slack:
        return None
    if normalization:
        return (
            f"images undone by mean {normalization.mean} and std {normalization.std} reach from "
            f"{low:.3g} to {high:.3g}, far outside [0, 1]: pass the mean and std that they were "
            "normalised by, or none"
        )
    return (
        f"floating-point images must lie in [0, 1]; got values from {low:.3g} to {high:.3g}. Pass "
        "mean= and std= if they are normalised, divide by 255 if they are grey levels"
    )


def all_finite(images: Tensor) -> Tensor:
    """Which images, or latents, hold neither NaN nor an infinite value; (B,) bool."""
    if not images.is_floating_point():
        return torch.ones(len(images), dtype=torch.bool, device=images.device)
    return torch.isfinite(images).flatten(1).all(1)


def with_finite_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Floating-point images with white for infinity, black for -infinity and grey for NaN."""
    one = torch.ones_like(images[:1, :, :1, :1], dtype=torch.float32)
    black, grey, white = (
        normalization.undo(level * one).to(images.dtype) for level in (0.0, 0.5, 1.0)
    )
    known = torch.where(images > 0, white, torch.where(images < 0, black, grey))
    return torch.where(torch.isfinite(images), images, known)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing where the result is smaller."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
