"""Labelled 8-bit images, which flows are trained on and fitted to."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..io.numbers import as_size, check_number, check_seed, check_whole
from ..io.progress import progress_bar
from ..run.ranks import own_cores
from .choose import choose_per_class
from .classes import unique_names
from .source import Source
from .view import RESIZE, SIDE, Header, View, Wanted

T = TypeVar("T")

PEEKS = 64  # images whose headers tell channels and sizes
HASHED = 1024  # images whose contents a fingerprint covers
_LEAST = 20  # images of a class of which a share is split off


class Batch(NamedTuple):
    """Some images, uint8 (B, C, H, W), or what was computed from them, and their labels (B,)."""

    images: Tensor
    labels: Tensor


class Images(Dataset[tuple[Tensor, int]]):
    """Labelled images, read on access: item i is a uint8 tensor (C, H, W) and an int in [0, K).

    They are some images of a source, and a view of them. Images that differ in size have their own
    size each, until `at` reads them at one.

    Attributes:
        source: Where the images are.
        view: What is made of each.
        rows: Their indices in the source, int64 (N,).
        classes: The K class names, in the order of their indices.
        targets: The label of every image, int64, shape (N,).
        channels: C.
        preprocessing: How stored images are converted to these, as JSON values.
        skipped: Names of images that cannot be decoded and are left out.
    """

    def __init__(
        self, source: Source, view: View, rows: Tensor, skipped: Sequence[str] = ()
    ) -> None:
        self.source: Source = source
        self.view: View = view
        self.rows: Tensor = rows
        self.classes: list[str] = unique_names(source.classes)
        self.targets: Tensor = source.targets[rows]
        self.channels: int = view.channels
        self.preprocessing: dict[str, Any] = view.to_dict()
        self.skipped: list[str] = list(skipped)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]  # negative indices, and IndexError
        return self.image(index), int(self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The items of a batch, which torch's `DataLoader` stacks.

        Raises:
            ValueError: They differ in size.
        """
        items = [self[index] for index in indices]
        if len({image.shape for image, _ in items}) > 1:
            raise self._differing()
        return items

    @property
    def has_one_size(self) -> bool:
        """Whether all images are read at one size."""
        return self.view.image_size is not None

    @property
    def has_stored_size(self) -> bool:
        """Whether all images have one size, which is that at which they are stored."""
        return self.has_one_size and not self.view.resize

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels.

        Raises:
            ValueError: The images differ in size.
        """
        if self.view.image_size is None:
            raise self._differing()
        return self.view.image_size

    @property
    def paths(self) -> list[str] | None:
        """The path of every image below the folder of classes ("cat/1.png"), if it is a file."""
        paths = self.source.paths
        if paths is None:
            return None
        return [paths[index] for index in self.rows.tolist()]

    def fingerprint(self, most: int = HASHED, *, progress: bool = False) -> str:
        """SHA-256 of class names, labels, paths, and the `digest` of up to `most` images.

        The images are the first, the last and every k-th between. Preprocessing and location do
        not count. `progress` shows a bar.
        """
        description = json.dumps([self.classes, self.targets.tolist(), self.paths])
        sha = hashlib.sha256(description.encode())
        rows = spread(len(self), most)
        with progress_bar(len(rows), "hashing images", "image", shown=progress) as bar:
            for index in rows:
                sha.update(self.digest(index))
                bar.update()
        return sha.hexdigest()

    def digest(self, index: int) -> bytes:
        """The `Source.digest` of image number `index`, as it is stored."""
        return self.source.digest(int(self.rows[index]))

    def with_digest(self, index: int) -> tuple[Tensor, bytes]:
        """Image number `index`, uint8 (C, H, W), and its `digest`."""
        image, digest = self.source.read_with_digest(int(self.rows[index]))
        return self.view(image, self.name(index)), digest

    def image(self, index: int) -> Tensor:
        """Image number `index`, uint8 (C, H, W)."""
        return self.view(self.source.read(int(self.rows[index])), self.name(index))

    def name(self, index: int) -> str:
        """The name of an image in messages, such as the path of its file."""
        return self.source.name(int(self.rows[index]))

    def subset(self, indices: Tensor) -> Images:
        """The images at these indices. All classes stay, including those left without images."""
        return Images(self.source, self.view, self.rows[indices], self.skipped)

    def split(
        self,
        *,
        per_class: int | Sequence[int] | None = None,
        share: float | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Images, Images]:
        """Split off random images of every class; return them and the rest, each in the old order.

        The same seed chooses the same images, and a larger number includes those of a smaller one.

        Args:
            per_class: How many of each class, or a number for each; a class with fewer images gives
                all that it has.
            share: In its place, the share of each class, in [0, 1]. A class of fewer than 20 images
                gives none, and every class keeps two.
            seed: Seed of the choice.
            generator: In its place, the source of random numbers.

        Raises:
            ValueError: A number is out of range, the seed is not a whole number that torch takes,
                or not one of `per_class` and `share` is given.
        """
        if (per_class is None) == (share is None):
            raise ValueError(f"give per_class or share; got {per_class!r} and {share!r}")
        if share is not None:
            per_class = self._shares(check_number("share", share, 0, 1))
        elif isinstance(per_class, int):
            per_class = check_whole("per_class", per_class)
        assert per_class is not None
        if generator is None:
            generator = torch.Generator().manual_seed(check_seed(seed))
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[choose_per_class(self.targets, per_class, generator)] = True
        return self.subset(chosen.nonzero().flatten()), self.subset((~chosen).nonzero().flatten())

    def _shares(self, share: float) -> list[int]:
        """How many images a share of each class is: none of a small one, and never the last two."""
        counts = torch.bincount(self.targets, minlength=len(self.classes)).tolist()
        return [min(int(count * share), count - 2) if count >= _LEAST else 0 for count in counts]

    def check_like(self, others: Images) -> None:
        """Check that these, to test on, have the classes and the shape of the others.

        Raises:
            ValueError: They have not, or images differ in size.
        """
        if self.classes != others.classes:
            raise ValueError(
                "the test images need the classes of the others, "
                f"{_listed(others.classes)}; they have {_listed(self.classes)}"
            )
        shape = (others.channels, *others.image_size)
        test_shape = (self.channels, *self.image_size)
        if shape != test_shape:
            raise ValueError(f"the images are {shape}, the test images {test_shape}")

    def at(self, view: View | int | tuple[int, int]) -> Images:
        """The same images in another view, or resized and cropped to (height, width) or a square.

        Example:
            >>> from nfaug import open_dataset
            >>> digits = open_dataset("digits")
            >>> digits.image_size, digits.at(16).image_size
            ((8, 8), (16, 16))
        """
        if not isinstance(view, View):
            view = replace(self.view, image_size=as_size(view), resize=True)
        return Images(self.source, view, self.rows, self.skipped)

    def suited(
        self,
        wanted: Wanted,
        most: int | None = SIDE,
        *,
        convert: bool = True,
        shrink: bool = False,
        progress: bool = False,
    ) -> Images:
        """The same images with the channels and the size that are wanted, by `View.for_`.

        A size that all images have here counts as the one at which they are stored. `progress`
        shows a bar while headers are read. Other arguments and errors are those of `View.for_`.
        """
        if wanted.channels in (None, self.channels):
            convert = self.view.convert
        channels = wanted.channels or self.channels
        size = wanted.image_size or self.view.image_size
        if (channels, size) != (self.channels, self.view.image_size) or size is None:
            headers = self.headers(progress=progress)
            view = View.for_(Wanted(channels, size), headers, most, convert=convert, shrink=shrink)
        elif shrink and wanted.image_size is None and most is not None:
            view = self.view.shrunk(most)
        else:
            return self
        if view.image_size == self.view.image_size:  # only channels change
            view = replace(view, resize=self.view.resize)
        return self.at(view)

    def named(self, classes: Sequence[str]) -> Images:
        """The same images with other names of their classes, in label order.

        Raises:
            ValueError: There are fewer names than classes.
        """
        names = unique_names(classes)
        if names == self.classes:
            return self
        if len(names) < len(self.classes):
            raise ValueError(f"there are {len(names)} names for {len(self.classes)} classes")
        source = copy.copy(self.source)
        source.classes = names
        return Images(source, self.view, self.rows, self.skipped)

    def headers(self, *, progress: bool = False) -> dict[str, Header]:
        """The headers of up to 64 images as they are stored, by name; `progress` shows a bar."""
        return headers_of(self.source, self.rows, progress=progress)

    def batch(self, rows: Tensor) -> Batch:
        """The images at these indices, decoded by several threads where that is faster.

        Raises:
            ValueError: They differ in size.
        """
        images = torch.empty((len(rows), self.channels, *self.image_size), dtype=torch.uint8)
        decoded = run_over(self.image, rows.tolist(), threads=self.threads)
        for image, row in zip(decoded, images, strict=True):
            row.copy_(image)
        return Batch(images, self.targets[rows])

    @property
    def threads(self) -> bool:
        """Whether several threads of this process read images faster; not in a loader's worker."""
        return self.source.threads and get_worker_info() is None

    def _differing(self) -> ValueError:
        """The error about images that differ in size where they should have one."""
        names: dict[tuple[int, int], str] = {}  # the first image of each size
        for name, header in self.headers().items():
            names.setdefault(header.size, name)
        shown = [f"{name} has {height} x {width}" for (height, width), name in names.items()]
        found = f"differ in size: {' and '.join(shown[:2])} pixels"
        if len(shown) < 2:
            found = "may differ in size, as the data do that they are from"
        return ValueError(f"images {found}; {RESIZE}")


def headers_of(source: Source, rows: Tensor, *, progress: bool) -> dict[str, Header]:
    """The headers of up to 64 images of a source at these rows, by name."""
    first = rows[spread(len(rows), PEEKS)].tolist()
    headers = {}
    with progress_bar(len(first), "sizes of images", "image", shown=progress) as bar:
        for row in first:
            headers[source.name(row)] = source.header(row)
            bar.update()
    return headers


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`: the first, the last and every k-th between."""
    positions = torch.linspace(0, count - 1, min(most, count), dtype=torch.float64)
    return positions.round().long().tolist()


def run_over(
    function: Callable[[int], T],
    indices: Sequence[int],
    description: str = "",
    *,
    threads: bool,
    progress: bool = False,
) -> Iterator[T]:
    """Yield the function of each index, in order, with a progress bar."""
    bar = progress_bar(len(indices), description, "image", shown=progress)
    if not threads:
        with bar:
            for index in indices:
                yield function(index)
                bar.update()
        return
    with bar, ThreadPoolExecutor(own_cores()) as pool:
        try:
            for start in range(0, len(indices), 1024):  # a pool's map() queues all calls at once
                for result in pool.map(function, indices[start : start + 1024]):
                    yield result
                    bar.update()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C no image is begun any more


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
