"""Augmentation of a flow's own training images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FlowAugmentation"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class FlowAugmentation:
    """Augment uint8 batches while a flow trains; everything is off by default.

    Each image draws its own parameters. The order is flip, rotation, shift, colours; values are
    rounded to 8 bits once at the end. Borders are mirrored: constant black ones would give the flow
    pixels without variance.

    Args:
        hflip: Mirror half of the images left to right.
        pad_crop: Shift by up to this many pixels in each direction (padding, then a random crop).
        rotation: Rotate by up to this many degrees to either side.
        color_jitter: Scale brightness, contrast and (of RGB images) saturation by independent
            factors from [1 - c, 1 + c], with c in [0, 1].
        noise: Standard deviation, in grey levels, of gaussian noise added to the dequantisation
            noise. The flow then does not resolve finer detail, which bounds its condition number
            where pixels hardly vary.

    Raises:
        ValueError: If a setting is out of range.
    """

    hflip: bool = False
    pad_crop: int = 0
    rotation: float = 0.0
    color_jitter: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        most = {"pad_crop": math.inf, "rotation": 180, "color_jitter": 1, "noise": 255}
        for name, limit in most.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must lie in [0, {limit}]; got {getattr(self, name)}")

    def draw(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw one set of parameters per image, on the generator's device.

        Transforms that are off draw nothing: `flip` (B,), `angle` (B,) in radians, `shift` (B, 2)
        in pixels down and right, `factors` (B, 3) for brightness, contrast and saturation.
        """
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator, device=device)

        params = {}
        if self.hflip:
            params["flip"] = uniform() < 0.5
        if self.rotation:
            params["angle"] = (2 * uniform() - 1) * math.radians(self.rotation)
        if self.pad_crop:
            limit = self.pad_crop
            params["shift"] = torch.randint(
                -limit, limit + 1, (batch, 2), generator=generator, device=device
            )
        if self.color_jitter:
            params["factors"] = 1 + (2 * uniform(3) - 1) * self.color_jitter
        return params

    def apply(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Apply drawn parameters to uint8 images (B, C, H, W), which stay as they are, or latents.

        Latents (B, views, C, H, W) are those of the image and of its mirror image; a flip takes the
        second.

        Raises:
            ValueError: If images have another type, or are smaller than the shift.
        """
        if images.ndim == 5:
            return _view(images, params.get("flip"))
        if images.dtype != torch.uint8 or self.pad_crop >= min(images.shape[2:]):
            raise ValueError(
                f"images must be uint8 and larger than pad_crop={self.pad_crop} pixels; got "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        params = {name: value.to(images.device) for name, value in params.items()}
        result = images
        if "flip" in params:
            result = torch.where(params["flip"][:, None, None, None], result.flip(-1), result)
        if "angle" in params:
            result = _rotate(result.float(), params["angle"])
        if "shift" in params:
            result = _shift(result, params["shift"])
        if "factors" in params:
            result = _jitter(result.float(), params["factors"])
        if result.is_floating_point():
            result = result.round().clamp(0, 255).to(torch.uint8)
        return result


def _view(latents: Tensor, flip: Tensor | None) -> Tensor:
    """Take the mirror image's latents where `flip` is set."""
    if flip is None or latents.shape[1] == 1:
        return latents[:, 0]
    chosen = flip.to(latents.device)[:, None, None, None]
    return torch.where(chosen, latents[:, 1], latents[:, 0])


def _rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate about the centre, bilinearly, for any aspect ratio."""
    height, width = images.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = [cos, -sin * (height / width), zero, sin * (width / height), cos, zero]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each image by its own (down, right) pixels; the border is mirrored."""

    def source(size: int, shift: Tensor) -> Tensor:
        index = torch.arange(size, device=shift.device) - shift[:, None]
        return (size - 1) - ((size - 1) - index.abs()).abs()

    height, width = images.shape[2:]
    rows, columns = source(height, shifts[:, 0]), source(width, shifts[:, 1])
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around a slice put the channel last.
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black, with the mean grey level, and with the grayscale image."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 255)
    mean = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 255)
    if images.shape[1] == 3:
        gray = _gray(images)
        images = gray + saturation * (images - gray)
    return images


def _gray(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = images.new_tensor(LUMA)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)
