"""Images of the study: the labelled few, validation, test; and what flip + crop does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nfaug.data.images import LabelledImages, TensorImages, split_per_class, to_tensors
from nfaug.training import open_dataset

__all__ = ["Images", "Source", "flip_and_crop", "held_out", "labelled", "training_images"]

VALIDATION_PER_CLASS = 300
VALIDATION_SEED = 12345


@dataclass(frozen=True)
class Source:
    """Where data of a name lie; `other` holds images of other classes for the flow "o"."""

    name: str
    path: str
    other: str
    test_path: str | None = None


class Images(NamedTuple):
    """uint8 (N, C, H, W) and labels (N,)."""

    images: Tensor
    labels: Tensor


@cache
def training_images(source: Source) -> LabelledImages:
    """All training images, in memory."""
    opened = open_dataset(source.path)
    return TensorImages(*to_tensors(opened, progress=False), opened.classes)


def _parts(source: Source) -> tuple[LabelledImages, LabelledImages]:
    """Validation images, the same for every cell, and the rest to draw labelled ones from."""
    return split_per_class(training_images(source), VALIDATION_PER_CLASS, VALIDATION_SEED)


def labelled(source: Source, per_class: int, seed: int) -> TensorImages:
    """The labelled images of a cell: all that an arm gets to see."""
    chosen, _ = split_per_class(_parts(source)[1], per_class, seed)
    assert isinstance(chosen, TensorImages)
    return chosen


def held_out(source: Source, split: str) -> Images:
    """What a cell is measured on: the validation images, or the whole test set.

    Raises:
        ValueError: `split` is neither "validation" nor "test".
    """
    if split == "validation":
        return Images(*to_tensors(_parts(source)[0], progress=False))
    if split != "test":
        raise ValueError(f'split must be "validation" or "test"; got {split!r}')
    path = source.path if source.test_path is None else source.test_path
    opened = open_dataset(path, split="test" if source.test_path is None else "train")
    return Images(*to_tensors(opened, progress=False))


def flip_and_crop(images: Tensor, generator: torch.Generator, *, margin: int) -> Tensor:
    """A random shift by up to `margin` pixels onto black, and a mirror image of every other one."""
    count, _, height, width = images.shape
    padded = F.pad(images, (margin,) * 4)
    down, right = torch.randint(2 * margin + 1, (2, count), generator=generator)
    rows = (torch.arange(height) + down[:, None])[:, None, :, None]
    columns = (torch.arange(width) + right[:, None])[:, None, None, :]
    each = torch.arange(count)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    shifted = padded[each, channel, rows, columns]
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(-1), shifted)
