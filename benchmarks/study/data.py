"""The data sets of the study: labelled, validation and test images; flip and crop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nfaug.data.images import LabelledImages, TensorImages, split_per_class, to_tensors
from nfaug.training import open_dataset

__all__ = [
    "DATASETS",
    "DataSet",
    "Images",
    "flip_and_crop",
    "held_out",
    "labelled",
    "training_images",
    "unlabelled_images",
]

# Flows and defaults were chosen on "validation", the settings of NFA and its rivals on "tuning".
# These are two draws: about one image in twenty is in both (of the digits, one in five).
HELD_OUT = {"validation": 12345, "tuning": 54321}


@dataclass(frozen=True)
class DataSet:
    """Where the images of a data set are, as `nfaug train --data` takes them.

    Attributes:
        name: Name in the CSV.
        path: Training images.
        test_path: Test images, where they are not the split "test" of `path`.
        other: Images of other classes, for the flow "o".
        flow: The flow "f": whatever `nfaug.load` takes.
        unlabelled: Images for the flow "u", where they are not those of `path`.
        image_size: Side of the square that images are resized to; None keeps their size.
        validation: Images per class that are held out of `path` to choose settings on.
    """

    name: str
    path: str
    test_path: str | None = None
    other: str = ""
    flow: str = ""
    unlabelled: str = ""
    image_size: int | None = None
    validation: int = 300


# An empty path must be given on the command line.
DATASETS = {
    data.name: data
    for data in [
        DataSet("fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        DataSet("cifar10", ""),
        DataSet("clothing128", "", image_size=96, validation=40),
        DataSet("digits", "digits", validation=40),
    ]
}


class Images(NamedTuple):
    """uint8 (N, C, H, W) and labels (N,)."""

    images: Tensor
    labels: Tensor


@cache
def training_images(data: DataSet) -> LabelledImages:
    """All training images, in memory."""
    return _in_memory(open_dataset(data.path, image_size=data.image_size))


@cache
def unlabelled_images(data: DataSet) -> LabelledImages:
    """The training images of a flow that sees no labels, in memory."""
    if not data.unlabelled:
        return training_images(data)
    return _in_memory(open_dataset(data.unlabelled, image_size=data.image_size))


def _in_memory(images: LabelledImages) -> TensorImages:
    return TensorImages(*to_tensors(images, progress=False), images.classes)


def _parts(data: DataSet, split: str) -> tuple[LabelledImages, LabelledImages]:
    """Images held out to choose on, the same for all cells of a split, and the remaining ones."""
    seed = HELD_OUT.get(split, HELD_OUT["validation"])
    return split_per_class(training_images(data), data.validation, seed)


def labelled(data: DataSet, per_class: int, seed: int, split: str = "validation") -> TensorImages:
    """The labelled images of a cell, drawn from the training images that its split leaves.

    `per_class` 0 takes all of these, and of the split "test" all training images.
    """
    if not per_class and split == "test":
        chosen = training_images(data)
    else:
        rest = _parts(data, split)[1]
        chosen = split_per_class(rest, per_class, seed)[0] if per_class else rest
    assert isinstance(chosen, TensorImages)
    return chosen


def held_out(data: DataSet, split: str) -> Images:
    """The images that a cell is measured on: held-out training images or the whole test set.

    Raises:
        ValueError: If `split` is none of "validation", "tuning" and "test", or if the test images
            have other classes than the training images.
    """
    if split in HELD_OUT:
        return Images(*to_tensors(_parts(data, split)[0], progress=False))
    if split != "test":
        raise ValueError(f"split must be one of {', '.join(HELD_OUT)} and test; got {split!r}")
    path = data.path if data.test_path is None else data.test_path
    split = "test" if data.test_path is None else "train"
    known = training_images(data)
    opened = open_dataset(path, split=split, image_size=data.image_size, channels=known.channels)
    if opened.classes != known.classes:
        raise ValueError(
            f"the test images in {path} must have the classes of the training images, "
            f"{known.classes}; got {opened.classes}"
        )
    return Images(*to_tensors(opened, progress=False))


def flip_and_crop(
    images: Tensor, generator: torch.Generator, *, margin: int, flip: bool = True
) -> Tensor:
    """Shift by up to `margin` pixels, padded with black; mirror with probability 1/2."""
    count, _, height, width = images.shape
    padded = F.pad(images, (margin,) * 4)
    down, right = torch.randint(2 * margin + 1, (2, count), generator=generator)
    rows = (torch.arange(height) + down[:, None])[:, None, :, None]
    columns = (torch.arange(width) + right[:, None])[:, None, None, :]
    each = torch.arange(count)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    shifted = padded[each, channel, rows, columns]
    if not flip:
        return shifted
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(-1), shifted)
