"""Augmentation of a flow's own training images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nfaug.io.extras import optional_imports
from nfaug.io.numbers import check_number, check_whole
from nfaug.io.types import Generator, Tensor

_JITTER = ("brightness", "contrast", "saturation")


@dataclass(frozen=True)
class FlowAugmentation:
    """Augment uint8 batches while a flow trains; everything is off by default.

    Each image draws its own parameters. Borders are mirrored, and those of rotated images are
    continued by their last pixels, as in the paper's released configurations: constant black ones
    would give the flow pixels without variance. Rotation and jitter are torchvision's, one image at
    a time.

    Args:
        hflip: Mirror half of the images left to right.
        pad_crop: Shift by up to this many pixels in each direction (padding, then a random crop).
        rotation: Rotate by up to this many degrees in either direction. Each pixel is the nearest
            one: a mean of several would make images smoother than they are.
        brightness: Multiply brightness by a factor of up to this much below or above 1.
        contrast: The same for contrast, after brightness.
        saturation: The same for saturation, after contrast; grayscale images have none.
        noise: Standard deviation of Gaussian noise added to the dequantisation noise, in gray
            levels; on latents, in units of `latent_noise`. The flow then does not resolve finer
            detail, which bounds its condition number where pixels hardly vary.

    Raises:
        ValueError: If a setting is out of range.
    """

    hflip: bool = False
    pad_crop: int = 0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_whole("pad_crop", self.pad_crop, 0)
        check_number("rotation", self.rotation, 0, 180)
        for name in _JITTER:
            check_number(name, getattr(self, name), 0, 1)
        check_number("noise", self.noise, 0, 255)

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """Draw parameters for each image, on the generator's device.

        They are `flip` (B,), bool; `shift` (B, 2), in pixels down and right; `angle` (B,), in
        degrees counterclockwise; `jitter` (B, 3), the factors of brightness, contrast and
        saturation. A transform that is off draws nothing, and its parameter is left out.
        """
        import torch  # settings alone do not need it

        device = generator.device
        params = {}
        if self.hflip:
            params["flip"] = torch.rand(batch, generator=generator, device=device) < 0.5
        if self.pad_crop:
            params["shift"] = torch.randint(
                -self.pad_crop, self.pad_crop + 1, (batch, 2), generator=generator, device=device
            )
        if self.rotation:
            numbers = torch.rand(batch, generator=generator, device=device)
            params["angle"] = self.rotation * (2 * numbers - 1)
        strengths = [getattr(self, name) for name in _JITTER]
        if any(strengths):
            numbers = torch.rand((batch, len(_JITTER)), generator=generator, device=device)
            params["jitter"] = 1 + torch.tensor(strengths, device=device) * (2 * numbers - 1)
        return params

    def apply(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Apply drawn parameters to uint8 images (B, C, H, W), which stay as they are, or latents.

        Latents have the shape (B, views, C, H, W), where the views are the image and perhaps its
        mirror image. A flip takes the last view.

        Raises:
            ValueError: If images are smaller than the shift.
            ModuleNotFoundError: If torchvision, which rotation and jitter need, is missing.
        """
        import torch

        params = {name: value.to(images.device) for name, value in params.items()}
        latents = images.ndim == 5
        result = images[:, 0] if latents else images
        if self.pad_crop >= min(result.shape[2:]):
            raise ValueError(
                f"images must be larger than pad_crop={self.pad_crop}; got {tuple(images.shape)}"
            )
        if "flip" in params:
            mirrored = images[:, -1] if latents else images.flip(-1)
            result = torch.where(params["flip"][:, None, None, None], mirrored, result)
        if "jitter" in params:
            result = _jitter(result, params["jitter"])
        if "angle" in params:
            still = torch.zeros(len(result), 2, dtype=torch.int64)
            result = _rotate(result, params["angle"], params.get("shift", still), self.pad_crop)
        elif "shift" in params:
            result = _shift(result, params["shift"])
        return result


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation of each image by its own factors (B, 3)."""
    import torch

    with optional_imports():
        from torchvision.transforms.v2 import functional as transforms

    jittered = []
    for image, (brightness, contrast, saturation) in zip(images, factors.tolist(), strict=True):
        image = transforms.adjust_brightness(image, brightness)
        image = transforms.adjust_contrast(image, contrast)
        jittered.append(transforms.adjust_saturation(image, saturation))
    return torch.stack(jittered)


def _rotate(images: Tensor, angles: Tensor, shifts: Tensor, farthest: int) -> Tensor:
    """Rotate each image by its own angle, then move it by its own (down, right) pixels.

    No shift is larger than `farthest`, on which rounding depends, and not on other images.
    """
    import torch

    with optional_imports():
        from torchvision.transforms.v2 import functional as transforms

    height, width = images.shape[2:]
    # So much that no corner of a moved image comes from outside, at any angle.
    radius = math.hypot(height / 2 + farthest, width / 2 + farthest)
    border = math.ceil(radius - min(height, width) / 2)
    padded = transforms.pad(images, [border], padding_mode="edge")
    rotated = []
    moves = zip(padded, angles.tolist(), shifts.tolist(), strict=True)
    for image, angle, (down, right) in moves:
        turned = transforms.rotate(image, angle)
        rotated.append(transforms.crop(turned, border - down, border - right, height, width))
    return torch.stack(rotated)


def _shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each image by its own (down, right) pixels; the border is mirrored."""

    import torch

    def sources(size: int, shift: Tensor) -> Tensor:
        """The index that each of `size` pixels comes from, (B, size)."""
        index = torch.arange(size, device=shift.device) - shift[:, None]
        return (size - 1) - ((size - 1) - index.abs()).abs()

    height, width = images.shape[2:]
    rows = sources(height, shifts[:, 0])
    columns = sources(width, shifts[:, 1])
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around a slice put the channel last.
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
