"""The images of a comparison, opened and decoded once: a pool to train on, and the test images."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nfaug.data.batches import decode
from nfaug.data.choose import choose_per_class
from nfaug.data.image_files import converter_of
from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.data.sources.layout import MissingSplitError
from nfaug.data.view import Wanted

from .config import CompareConfig

_DRAWS = 20  # labelled images of so many seeds are decoded; more seeds draw from the same
_SMALL = 48  # the longest side by default for small-cnn
_LARGE = 96  # and for a timm model
_LEAST = 8  # the shortest side that small-cnn takes


class Part(NamedTuple):
    """Some of the images of a comparison.

    Attributes:
        images: (N, C, H, W), uint8, at the size at which networks are trained.
        labels: (N,), int64.
        large: The images at the size at which a frozen network reads them; empty without one.
    """

    images: Tensor
    labels: Tensor
    large: Tensor

    def rows(self, rows: Tensor) -> Part:
        """Those of these rows."""
        large = self.large[rows] if len(self.large) else self.large
        return Part(self.images[rows], self.labels[rows], large)


@dataclass(frozen=True)
class CompareImages:
    """The images of a comparison.

    Attributes:
        classes: The names of the classes.
        pool: The images that labelled ones are drawn from. None has the pixels of a test image.
        test: The test images. They depend on the data alone, and not on methods or seeds.
        names: The names of the test images.
        notes: Sentences on the data, for the report.

    Example:
        >>> from nfaug import open_dataset
        >>> from nfaug.compare import CompareConfig, read_images
        >>> data = read_images(open_dataset("digits", per_class=20), config=CompareConfig())
        >>> data.shape, data.labelled(5, seed=0).labels.bincount().tolist()
        ((1, 8, 8), [5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """

    classes: list[str]
    pool: Part
    test: Part
    names: list[str]
    notes: list[str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that networks are trained on."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    def labelled(self, per_class: int | None, seed: int) -> Part:
        """The images that the classifiers of a seed are trained on.

        Args:
            per_class: Images of each class; all of a class that has fewer, or with None.
            seed: The seed of the choice.

        Returns:
            The images, in the order of the data.
        """
        if per_class is None:
            return self.pool
        generator = torch.Generator().manual_seed(seed)
        return self.pool.rows(choose_per_class(self.pool.labels, per_class, generator))

    def sha256(self) -> str:
        """What tells these images from others.

        Returns:
            SHA-256 of all pixels, labels and names of classes.
        """
        sha = hashlib.sha256("\0".join(self.classes).encode())
        for part in (self.pool, self.test):
            for array in part:
                sha.update(repr(tuple(array.shape)).encode())
                sha.update(array.numpy().tobytes())
        return sha.hexdigest()


def open_parts(
    data: str | os.PathLike[str], test_data: str | os.PathLike[str] | None = None, **reading: Any
) -> tuple[Images, Images | None]:
    """Open the images to draw labelled ones from, and the test images.

    The second are the test split of `test_data`, or all of it if it has no splits; without it the
    test split of `data`, or None if that has no splits, and a part will be held out.

    Args:
        data: What `nfaug.open_dataset` takes.
        test_data: The same.
        reading: Other arguments of `open_dataset`.

    Returns:
        Both, of one shape. Images that differ in size have their own size each, until
        `nfaug.data.images.Images.at` reads them at one.

    Example:
        >>> from nfaug.compare import open_parts
        >>> [len(part) for part in open_parts("digits")]
        [1442, 355]
    """
    pool = open_dataset(data, **reading)
    reading["channels"] = pool.channels
    if pool.has_one_size:
        reading["image_size"] = pool.image_size
    try:
        return pool, open_dataset(test_data or data, split="test", **reading)
    except MissingSplitError:
        if test_data is None:
            return pool, None
    return pool, open_dataset(test_data, **reading)


def at_most(data: Images, config: CompareConfig) -> Images:
    """The images at their own size, at most 48 pixels for small-cnn and 96 for a timm model."""
    data = data.suited(Wanted(), _longest(config), shrink=True)
    height, width = data.image_size
    return data.at((max(_LEAST, height), max(_LEAST, width)))


def _longest(config: CompareConfig) -> int:
    """The longest side by default of the images of a network."""
    return _SMALL if config.network == CompareConfig.network else _LARGE


def read_images(data: Any, test_data: Any = None, *, config: CompareConfig) -> CompareImages:
    """Decide which are the test images, and decode all images, as `compare` does.

    Args:
        data: Images as `nfaug.open_dataset` takes them.
        test_data: Test images, of the same classes and shape; None to hold out a part.
        config: `per_class` and `test_images` count.

    Returns:
        The images.

    Raises:
        ValueError: See `compare`.

    Example:
        >>> from nfaug.compare import CompareConfig, open_parts, read_images
        >>> data = read_images(*open_parts("digits"), config=CompareConfig(per_class=10))
        >>> len(data.names), len(data.classes)
        (355, 10)
    """
    pool, test = split_images(data, test_data, config)
    return decode_images(pool, test, config)


def split_images(data: Any, test_data: Any, config: CompareConfig) -> tuple[Images, Images]:
    """The images that labelled ones are drawn from, and the test images.

    Without `test_data`, half of each class is held out, up to 100 images, or a quarter, up to 500
    images, whichever is more.

    Raises:
        ValueError: There are fewer than two classes, one of them has too few images, or the test
            images have other classes or another shape.
    """
    pool = open_dataset(data).suited(Wanted(), _longest(config))
    held_out = test_data is None
    _check_counts(pool, needed=2 if held_out else 1)
    if held_out:
        counts = torch.bincount(pool.targets).tolist()
        numbers = [max(min(count // 2, 100), min(count // 4, 500)) for count in counts]
        test, pool = pool.split(per_class=numbers)
    else:
        test = open_dataset(test_data)
        test = test if test.has_one_size else test.at(pool.image_size)
        test.check_like(pool)
    if len(test) > config.test_images:
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
        test = test.subset(order[: config.test_images].sort().values)
    if config.per_class is not None:
        generator = torch.Generator().manual_seed(0)
        few = choose_per_class(pool.targets, _DRAWS * config.per_class, generator)
        pool = pool.subset(few)
    return pool, test


def decode_images(
    pool: Images,
    test: Images,
    config: CompareConfig,
    *,
    frozen_side: int | None = None,
    progress: bool = False,
) -> CompareImages:
    """Decode all images; those with the pixels of a test image leave the pool.

    Args:
        pool: The images that labelled ones are drawn from.
        test: The test images.
        config: `per_class` counts.
        frozen_side: The side at which a frozen network reads its images; None without one.
        progress: Whether a bar is shown.

    Raises:
        ValueError: Nothing is left of a class.
    """
    trained = _part(pool, frozen_side, progress)
    tested = _part(test, frozen_side, progress)
    names = [pool.name(index) for index in range(len(pool))]
    test_names = [test.name(index) for index in range(len(test))]
    kept, notes = _without_copies(trained, tested, names, test_names, pool.classes)
    trained = trained.rows(kept)
    notes += _notes(pool.classes, trained.labels, config)
    notes += _skipped(dict.fromkeys([*pool.skipped, *test.skipped]))
    return CompareImages(pool.classes, trained, tested, test_names, notes)


def _check_counts(data: Images, needed: int) -> None:
    if len(data.classes) < 2:
        raise ValueError(f"classifiers need at least two classes; the data have {data.classes}")
    counts = torch.bincount(data.targets, minlength=len(data.classes)).tolist()
    for name, count in zip(data.classes, counts, strict=True):
        if count < needed:
            raise ValueError(
                f"class {name!r} has {count} images, and needs {needed}: one to train on"
                f"{' and one test image' if needed > 1 else ''}"
            )


def _part(data: Images, frozen_side: int | None, progress: bool) -> Part:
    """The images, decoded at one size or at two."""
    images = decode(data, progress=progress)
    large = torch.empty(0, dtype=torch.uint8)
    if frozen_side is not None:
        large = decode(data.at(frozen_side), progress=progress)
    return Part(images, data.targets, large)


def _digests(images: Tensor) -> Iterator[bytes]:
    for image in images:
        yield hashlib.sha256(image.numpy().tobytes()).digest()


def _without_copies(
    pool: Part, test: Part, names: Sequence[str], test_names: Sequence[str], classes: list[str]
) -> tuple[Tensor, list[str]]:
    """Rows of the pool whose pixels are not those of a test image, and notes on the others.

    Raises:
        ValueError: Nothing is left of a class.
    """
    tested = {digest: row for row, digest in enumerate(_digests(test.images))}
    copies = {}
    for row, digest in enumerate(_digests(pool.images)):
        if digest in tested:
            copies[row] = tested[digest]
    if not copies:
        return torch.arange(len(names)), []
    first, same = next(iter(copies.items()))
    note = (
        f"{len(copies)} of {len(names)} images to train on have the pixels of a test image, and "
        f"are left out: {names[first]} is {test_names[same]}."
    )
    for row, same in copies.items():
        if pool.labels[row] != test.labels[same]:
            note += (
                f" {names[row]} has the class {classes[pool.labels[row]]}, and "
                f"{test_names[same]} {classes[test.labels[same]]}: one of the two is wrong."
            )
            break
    kept = torch.tensor([row for row in range(len(names)) if row not in copies], dtype=torch.int64)
    left = torch.bincount(pool.labels[kept], minlength=len(classes))
    if int(left.min()) == 0:
        raise ValueError(
            f"{note} Nothing is left to train on in class {classes[int(left.argmin())]!r}: pass "
            "other images as test_data (--test-data), or none, and a part is held out"
        )
    warnings.warn(note, stacklevel=3)
    return kept, [note]


def _notes(classes: list[str], labels: Tensor, config: CompareConfig) -> list[str]:
    """What is to be said of the images that are trained on."""
    notes = []
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True)
           if count < (config.per_class or 2)]  # fmt: skip
    if few:
        notes.append(f"Classes with fewer labelled images: {_listed(few)}.")
    if min(counts) == 1 or config.per_class == 1:
        notes.append("NFA mixes two images, and leaves those of a class of one as they are.")
    return notes


def _skipped(names: Collection[str]) -> list[str]:
    """What is to be said of files that could not be decoded."""
    if not names:
        return []
    note = f"{len(names)} files were not read: {_listed(list(names))}."
    packages = sorted({package for package in map(converter_of, names) if package})
    if packages:
        note += f" The package {' and '.join(packages)} converts them to PNG."
    return [note]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
