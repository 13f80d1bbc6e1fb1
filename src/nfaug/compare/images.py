"""The images of a comparison: which are trained on, and which judge."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from nfaug.data.classes import check_same_classes
from nfaug.data.images import LabelledImages

from .config import CompareConfig

__all__ = [
    "check_shape",
    "groups_of",
    "labelled_images",
    "large_classes",
    "split_images",
]

_MOST_HELD = 500  # images of a class; more take time and add little precision


def large_classes(
    data: LabelledImages, test: LabelledImages | None, least: int | None
) -> tuple[LabelledImages, LabelledImages | None]:
    """The images of the classes that have at least so many; `test` has the same classes.

    Raises:
        ValueError: A class has too few images to be in a comparison, or fewer than two are left.
    """
    counts = torch.bincount(data.targets, minlength=len(data.classes)).tolist()
    needed = 1 if test is not None else 2
    kept = []
    for name, count in zip(data.classes, counts, strict=True):
        if count >= (least or needed):
            kept.append(name)
    if least is None and len(kept) < len(data.classes):
        small = next(name for name in data.classes if name not in kept)
        raise ValueError(
            f"class {small!r} has {counts[data.classes.index(small)]} images, and needs {needed}, "
            "one to judge by included: --min-images leaves such classes out"
        )
    if len(kept) < 2:
        raise ValueError(
            f"classifiers need at least two classes; the data have {data.classes} with {counts} "
            f"images (--min-images {least or needed})"
        )
    if test is not None:
        check_same_classes(test.classes, data.classes)
    if len(kept) == len(data.classes):
        return data, test
    left_out = [name for name in data.classes if name not in kept]
    warnings.warn(
        f"{len(left_out)} of {len(counts)} classes have fewer than {least} images and are left "
        f"out: {', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}",
        stacklevel=3,
    )
    return _of_classes(data, kept), None if test is None else _of_classes(test, kept)


def _of_classes(data: LabelledImages, names: Sequence[str]) -> LabelledImages:
    """The images of these classes, which are numbered anew."""
    numbers = torch.full((len(data.classes),), -1)
    for number, name in enumerate(names):
        numbers[data.classes.index(name)] = number
    reader = copy.copy(data.reader)
    reader.classes = list(names)
    reader.targets = numbers[data.reader.targets]
    chosen = numbers[data.targets] >= 0
    return LabelledImages(reader, data.preprocess, data.indices[chosen], data.skipped)


def split_images(
    data: LabelledImages,
    test: LabelledImages | None,
    few: int | None,
    group: str | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Images to draw labelled ones from, and those to judge by.

    Without `test`, a quarter of each class is held out, or half of it if `few` labelled images of a
    class are enough, and at least one image. Images of one group are on one side.

    Raises:
        ValueError: The images have other shapes, a group is on both sides, or all images of a class
            are of one group.
    """
    if test is not None:
        shape = (data.channels, *data.image_size)
        test_shape = (test.channels, *test.image_size)
        if shape != test_shape:
            raise ValueError(f"the images are {shape}, those to judge by {test_shape}")
        if group is not None:
            shared = set(groups_of(data, group)) & set(groups_of(test, group))
            if shared:
                raise ValueError(
                    f"{len(shared)} groups of --group {group!r} are both in the data and among the "
                    f"images to judge by, such as {min(shared)!r}"
                )
        return data, test
    counts = torch.bincount(data.targets, minlength=len(data.classes))
    wanted = torch.zeros_like(counts)
    for label, count in enumerate(counts.tolist()):
        number = min(count // 2, count - few) if few else count // 4
        wanted[label] = min(max(1, number), _MOST_HELD)
    held = torch.zeros(len(data), dtype=torch.bool)
    if group is None:
        for label, count in enumerate(counts.tolist()):
            rows = (data.targets == label).nonzero().flatten()
            order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
            held[rows[order[: wanted[label]]]] = True
    else:
        held = _hold_groups(data, groups_of(data, group), wanted)
        for part in (held, ~held):
            found = torch.bincount(data.targets[part], minlength=len(counts))
            if found.min() == 0:
                raise ValueError(
                    f"class {data.classes[int(found.argmin())]!r} has too few groups of --group "
                    f"{group!r}: those to train on and those to judge by need one each"
                )
    return data.subset((~held).nonzero().flatten()), data.subset(held.nonzero().flatten())


def _hold_groups(data: LabelledImages, groups: Sequence[str], wanted: Tensor) -> Tensor:
    """Which images are held out, (N,) bool: whole groups, until every class has enough."""
    names = sorted(set(groups))
    numbers = {name: number for number, name in enumerate(names)}
    of_images = torch.tensor([numbers[name] for name in groups])
    counts = torch.bincount(data.targets, minlength=len(wanted))
    found = torch.zeros_like(wanted)
    held = torch.zeros(len(data), dtype=torch.bool)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    for number in order.tolist():
        rows = of_images == number
        more = torch.bincount(data.targets[rows], minlength=len(wanted))
        is_needed = ((found < wanted) & (more > 0)).any()
        leaves_some = (found + more < counts)[more > 0].all()
        if is_needed and leaves_some:
            held |= rows
            found += more
    return held


def groups_of(data: LabelledImages, group: str) -> list[str]:
    """The group of every image: a column of a table, or what a pattern finds in its path.

    Raises:
        ValueError: The pattern is not one, or does not match a path.
    """
    column = data.reader.column(group)
    if column is not None:
        return [str(column[row]) for row in data.indices.tolist()]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"--group {group!r} is no regular expression ({error})") from None
    groups = []
    for path in data.paths or [data.name(index) for index in range(len(data))]:
        found = pattern.search(path)
        if found is None:
            raise ValueError(f"--group {group!r} does not match {path!r}")
        groups.append(found[1] if pattern.groups else found[0])
    return groups


def labelled_images(pool: LabelledImages, config: CompareConfig, seed: int) -> LabelledImages:
    """The images that the classifiers of a seed are trained on: all of a class that has fewer."""
    if config.per_class is None:
        return pool
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(pool), dtype=torch.bool)
    for label in range(len(pool.classes)):
        rows = (pool.targets == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator)
        chosen[rows[order[: config.per_class]]] = True
    return pool.subset(chosen.nonzero().flatten())


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
