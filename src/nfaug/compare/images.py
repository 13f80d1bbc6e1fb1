"""The images of a comparison: which are trained on, and which judge."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import Tensor

from nfaug.data.classes import check_same_classes
from nfaug.data.images import LabelledImages, split_per_class, to_tensors

from .config import CompareConfig

__all__ = ["check_apart", "check_shape", "labelled_images", "split_images"]

_MOST_SHARED = 0.01  # of the images to judge by; public data sets hold a few copies


def split_images(
    data: LabelledImages, test: LabelledImages | None, few: int | None
) -> tuple[LabelledImages, LabelledImages]:
    """Images to draw labelled ones from, and those to validate with.

    Without `test`, a quarter of each class is held out, or half of it if `few` labelled images of a
    class are enough.

    Raises:
        ValueError: A class has too few images, or `test` has other classes.
    """
    if len(data.classes) < 2:
        raise ValueError(f"classifiers need at least two classes; the data have {data.classes}")
    needed = few or 2
    if test is None:
        needed += 1
    counts = torch.bincount(data.targets, minlength=len(data.classes)).tolist()
    smallest = min(counts)
    if smallest < needed:
        raise ValueError(
            f"class {data.classes[counts.index(smallest)]!r} has {smallest} images; {needed} are "
            "needed, those to validate with included: lower --per-class, or leave the class out"
        )
    if test is not None:
        check_same_classes(test.classes, data.classes)
        shape = (data.channels, *data.image_size)
        test_shape = (test.channels, *test.image_size)
        if shape != test_shape:
            raise ValueError(f"the images are {shape}, those to judge by {test_shape}")
        return data, test
    held = torch.zeros(len(data), dtype=torch.bool)
    for label, count in enumerate(counts):
        number = min(count // 2, count - few) if few else count // 4
        number = min(max(1, number), 500)  # more take time and add little precision
        order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
        rows = (data.targets == label).nonzero().flatten()
        held[rows[order[:number]]] = True
    return data.subset((~held).nonzero().flatten()), data.subset(held.nonzero().flatten())


def labelled_images(pool: LabelledImages, config: CompareConfig, seed: int) -> LabelledImages:
    """The images that the classifiers of a seed are trained on."""
    if config.per_class is None:
        return pool
    few, _ = split_per_class(pool, config.per_class, seed)
    return few


def check_shape(data: LabelledImages, config: CompareConfig) -> None:
    """Raise ValueError if an augmentation cannot be applied to images of this shape."""
    height, width = data.image_size
    if data.channels not in (1, 3):
        raise ValueError(
            f"a comparison takes grey or RGB images, as its rivals do; got {data.channels} channels"
        )
    if "rotate" in config.safe and height != width:
        raise ValueError(
            f"quarter turns (augment rotate) need square images; got {height} x {width}: choose a "
            "square (--image-size), or leave rotate out"
        )


def check_apart(
    pool: LabelledImages, judged: LabelledImages, pixels: Tensor, config: CompareConfig
) -> None:
    """Warn of images to judge by that have the pixels of one that is trained on.

    `pixels` are those of `judged`.

    Raises:
        ValueError: They are more than one in a hundred.
    """
    rows = {_digest(image): row for row, image in enumerate(pixels)}
    shared: dict[int, str] = {}  # by row of `judged`, the name of the same image in training
    draws = 1 if config.per_class is None else config.seeds
    for seed in range(draws):
        few = labelled_images(pool, config, seed)
        images, _ = to_tensors(few, progress=False)
        for index, image in enumerate(images):
            row = rows.get(_digest(image))
            if row is not None:
                shared[row] = few.name(index)
    if not shared:
        return
    row, name = next(iter(shared.items()))
    problem = (
        f"{len(shared)} of {len(pixels)} images to judge by are trained on: {judged.name(row)} has "
        f"the pixels of {name}"
    )
    if len(shared) > _MOST_SHARED * len(pixels):
        raise ValueError(
            f"{problem}. Remove them, or leave out test (--test-data), and a part is held out"
        )
    warnings.warn(f"{problem}. Accuracy is that much too high at most", stacklevel=3)


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes()).digest()
