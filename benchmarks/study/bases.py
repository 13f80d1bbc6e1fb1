"""Augmentations that follow an arm: flip and crop, and the rivals of NFA that need no flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from .data import flip_and_crop

__all__ = ["apply_base", "base_parts"]

MARGIN = 2  # pixels; the largest shift of a crop, unless crop:MARGIN says otherwise

# (images, labels, number of classes, generator) -> images and labels, or class probabilities
Apply = Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]]


def _flip_and_crop(margin: str = str(MARGIN)) -> Apply:
    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return flip_and_crop(images, draws, margin=int(margin)), labels

    return apply


def _each(transform: Callable[[Tensor], Tensor]) -> Apply:
    """A transform that draws for one image at a time, from the global generator."""

    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return torch.stack([transform(image) for image in images]), labels

    return apply


def _mix(kind: Callable[..., v2.Transform], alpha: str) -> Apply:
    """torchvision's MixUp or CutMix, for a batch; it draws from the global generator."""

    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        mix = kind(alpha=float(alpha), num_classes=classes)
        mixed: tuple[Tensor, Tensor] = mix(images.float(), labels)
        return mixed

    return apply


# name -> (options as text) -> apply. "flip" comes with "crop".
BASES: dict[str, Callable[..., Apply]] = {
    "crop": _flip_and_crop,
    "randaugment": lambda number="2", magnitude="9": _each(
        v2.RandAugment(int(number), int(magnitude))
    ),
    "trivialaugment": lambda: _each(v2.TrivialAugmentWide()),
    "mixup": lambda alpha="1": _mix(v2.MixUp, alpha),
    "cutmix": lambda alpha="1": _mix(v2.CutMix, alpha),
}

# Parts that act on the loss: isda:LAMBDA (isda.py), and consistency:ALPHA, timm's loss for views of
# an image, here of the image and of what the arm makes of it (arXiv:1912.02781).
LOSSES = ("isda", "consistency")


def base_parts(base: str) -> list[tuple[str, list[str]]]:
    """The parts of a base and their options, "flip+crop:4+randaugment:2:9", in order.

    Raises:
        ValueError: A part is unknown, or only one of flip and crop is there.
    """
    parts = [(name, options) for name, *options in (part.split(":") for part in base.split("+"))]
    names = {name for name, _ in parts}
    if unknown := names - {"none", "flip", *LOSSES, *BASES}:
        raise ValueError(f"base {base!r} has unknown parts {sorted(unknown)}")
    if ("flip" in names) != ("crop" in names):
        raise ValueError(f"base {base!r} has only one of flip and crop; use flip+crop")
    return parts


def apply_base(
    images: Tensor, labels: Tensor, base: str, classes: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Apply the parts of a base to uint8 images, in the order in which they are named."""
    for name, options in base_parts(base):
        if name in BASES:
            images, labels = BASES[name](*options)(images, labels, classes, draws)
    return images, labels
