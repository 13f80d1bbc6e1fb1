"""Augmentations that follow an arm: flip and crop, and the rivals of NFA that need no flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from .data import flip_and_crop

__all__ = ["GEOMETRIC", "Part", "apply_base", "base_parts", "loss_parts"]

MARGIN = 2  # pixels; the largest shift of a crop, unless crop:MARGIN says otherwise

# (images, labels, number of classes, generator, probability) -> images and labels, or class
# probabilities
Apply = Callable[[Tensor, Tensor, int, torch.Generator, float], tuple[Tensor, Tensor]]


def _moved(margin: str = str(MARGIN), *, flip: bool) -> Apply:
    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator, p: float
    ) -> tuple[Tensor, Tensor]:
        return flip_and_crop(images, draws, margin=int(margin), flip=flip), labels

    return apply


def _each(transform: Callable[[Tensor], Tensor]) -> Apply:
    """A transform that draws for one image at a time, from the global generator."""

    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator, p: float
    ) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(images), generator=draws) < p
        pairs = zip(images, chosen.tolist(), strict=True)
        return torch.stack([transform(x) if taken else x for x, taken in pairs]), labels

    return apply


def _mix(kind: Callable[..., v2.Transform], alpha: str) -> Apply:
    """torchvision's MixUp or CutMix, for a whole batch; it draws from the global generator."""

    def apply(
        images: Tensor, labels: Tensor, classes: int, draws: torch.Generator, p: float
    ) -> tuple[Tensor, Tensor]:
        if torch.rand(1, generator=draws) >= p:
            return images.float(), torch.nn.functional.one_hot(labels, classes).float()
        mix = kind(alpha=float(alpha), num_classes=classes)
        mixed: tuple[Tensor, Tensor] = mix(images.float(), labels)
        return mixed

    return apply


# name -> (options as text) -> apply. "flip" comes with "crop"; "shift" is a crop without it.
BASES: dict[str, Callable[..., Apply]] = {
    "crop": lambda *options: _moved(*options, flip=True),
    "shift": lambda *options: _moved(*options, flip=False),
    # The last option is the grey level that moved images are filled with.
    "randaugment": lambda number="2", magnitude="9", fill="0": _each(
        v2.RandAugment(int(number), int(magnitude), fill=int(fill))
    ),
    "trivialaugment": lambda fill="0": _each(v2.TrivialAugmentWide(fill=int(fill))),
    "mixup": lambda alpha="1": _mix(v2.MixUp, alpha),
    "cutmix": lambda alpha="1": _mix(v2.CutMix, alpha),
}
# Parts that act on the loss: isda:LAMBDA (isda.py), and consistency:ALPHA, timm's loss for views of
# an image, here of the image and of what the arm makes of it (arXiv:1912.02781).
LOSSES = ("isda", "consistency")
GEOMETRIC = ("crop", "shift")  # every image is moved: they take no probability


@dataclass(frozen=True)
class Part:
    """A part of a base, such as "randaugment:2:9@0.5".

    Attributes:
        name: Name in BASES or LOSSES, or "flip" or "none".
        options: What follows the colons.
        p: What follows the @, the probability: of an image, or of a batch for mixup and CutMix.
    """

    name: str
    options: tuple[str, ...] = ()
    p: float = 1.0


def base_parts(base: str) -> list[Part]:
    """The parts of a base, "flip+crop:4+randaugment:2:9@0.5", in order.

    Raises:
        ValueError: A part is unknown, only one of flip and crop is there, or a probability is
            given to a part that takes none.
    """
    parts = []
    for text in base.split("+"):
        word, _, p = text.partition("@")
        name, *options = word.split(":")
        if p and (name in GEOMETRIC or name not in BASES):
            raise ValueError(f"{name} takes no probability; got {text!r}")
        if not 0 <= float(p or 1) <= 1:
            raise ValueError(f"a probability must lie in [0, 1]; got {text!r}")
        if name in LOSSES and len(options) != 1:
            raise ValueError(f"{name} needs one number, such as {name}:0.5; got {text!r}")
        parts.append(Part(name, tuple(options), float(p or 1)))
    names = [part.name for part in parts]
    if unknown := set(names) - {"none", "flip", *LOSSES, *BASES}:
        raise ValueError(f"base {base!r} has unknown parts {sorted(unknown)}")
    if ("flip" in names) != ("crop" in names):
        raise ValueError(f"base {base!r} has only one of flip and crop; use flip+crop, or shift")
    if len(loss_parts(parts)) > 1:
        raise ValueError(f"base {base!r} has several losses; one is possible")
    return parts


def loss_parts(parts: list[Part]) -> list[Part]:
    """The parts that act on the loss."""
    return [part for part in parts if part.name in LOSSES]


def apply_base(
    images: Tensor, labels: Tensor, base: str, classes: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Apply the parts of a base to uint8 images, in the order in which they are named."""
    for part in base_parts(base):
        if part.name in BASES:
            apply = BASES[part.name](*part.options)
            images, labels = apply(images, labels, classes, draws, part.p)
    return images, labels
