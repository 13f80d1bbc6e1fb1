"""Labelled 8-bit images of one shape, which flows are trained on and fitted to."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..io.numbers import as_size, check_seed, check_whole
from ..io.progress import progress_bar
from ..run.ranks import own_cores
from .choose import choose_per_class
from .classes import unique_names
from .decode import ImageDecodeError
from .preprocess import RESIZE, Preprocess
from .readers import Reader

T = TypeVar("T")

PEEKS = 64  # images from which channels are inferred
HASHED = 1024  # images whose contents a fingerprint covers


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Labelled images, read on access: item i is a uint8 tensor (C, H, W) and an int in [0, K).

    Images that differ in size have their own size each, until `at` reads them at one.

    Attributes:
        classes: The K class names, in the order of their indices.
        targets: The label of every image, int64, shape (N,).
        channels: C.
        preprocessing: How stored images are converted to these, as JSON values.
        skipped: Names of images that cannot be decoded and are left out.
    """

    def __init__(
        self, reader: Reader, preprocess: Preprocess, indices: Tensor, skipped: Sequence[str] = ()
    ) -> None:
        self.reader: Reader = reader
        self.preprocess: Preprocess = preprocess
        self.indices: Tensor = indices
        self.classes: list[str] = unique_names(reader.classes)
        self.targets: Tensor = reader.targets[indices]
        self.channels: int = preprocess.channels
        self.preprocessing: dict[str, Any] = preprocess.to_dict()
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
        return self.preprocess.image_size is not None

    @property
    def has_stored_size(self) -> bool:
        """Whether all images have one size, which is that at which they are stored."""
        return self.has_one_size and not self.preprocess.resize

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels.

        Raises:
            ValueError: The images differ in size.
        """
        if self.preprocess.image_size is None:
            raise self._differing()
        return self.preprocess.image_size

    @property
    def paths(self) -> list[str] | None:
        """The path of every image below the folder of classes ("cat/1.png"), if it is a file."""
        paths = self.reader.paths
        if paths is None:
            return None
        return [paths[index] for index in self.indices.tolist()]

    def fingerprint(self, most: int = HASHED, *, progress: bool = False) -> str:
        """SHA-256 of class names, labels, paths, and the `Reader.sha256` of up to `most` images.

        The images are the first, the last and every k-th between. Preprocessing and location do
        not count. `progress` shows a bar.
        """
        description = json.dumps([self.classes, self.targets.tolist(), self.paths])
        sha = hashlib.sha256(description.encode())
        rows = spread(len(self), most)
        with progress_bar(len(rows), "hashing images", "image", shown=progress) as bar:
            for index in rows:
                sha.update(self.sha256(index))
                bar.update()
        return sha.hexdigest()

    def sha256(self, index: int, *, pixels: bool = False) -> bytes:
        """The `Reader.sha256` of image number `index`, as it is stored."""
        return self.reader.sha256(int(self.indices[index]), pixels=pixels)

    def hashed(self, index: int) -> tuple[Tensor, bytes]:
        """Image number `index`, uint8 (C, H, W), and its `sha256`."""
        image, digest = self.reader.read_hashed(int(self.indices[index]))
        return self.preprocess(image, self.name(index)), digest

    def image(self, index: int) -> Tensor:
        """Image number `index`, uint8 (C, H, W)."""
        return self.preprocess(self.reader.read(int(self.indices[index])), self.name(index))

    def name(self, index: int) -> str:
        """The name of an image in messages, such as the path of its file."""
        return self.reader.name(int(self.indices[index]))

    def subset(self, indices: Tensor) -> LabelledImages:
        """The images at these indices. All classes stay, including those left without images."""
        return LabelledImages(self.reader, self.preprocess, self.indices[indices], self.skipped)

    def split(self, indices: Tensor) -> tuple[LabelledImages, LabelledImages]:
        """The images at these indices, and the others, each in the old order."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[indices] = True
        return self.subset(chosen.nonzero().flatten()), self.subset((~chosen).nonzero().flatten())

    def at(self, image_size: int | tuple[int, int]) -> LabelledImages:
        """The same images, resized and cropped to (height, width), or to a square of this side.

        Example:
            >>> from nfaug import open_dataset
            >>> digits = open_dataset("digits")
            >>> digits.image_size, digits.at(16).image_size
            ((8, 8), (16, 16))
        """
        preprocess = replace(self.preprocess, image_size=as_size(image_size), resize=True)
        return LabelledImages(self.reader, preprocess, self.indices, self.skipped)

    def named(self, classes: Sequence[str]) -> LabelledImages:
        """The same images with other names of their classes, in label order.

        Raises:
            ValueError: There are fewer names than classes.
        """
        names = unique_names(classes)
        if names == self.classes:
            return self
        if len(names) < len(self.classes):
            raise ValueError(f"there are {len(names)} names for {len(self.classes)} classes")
        reader = copy.copy(self.reader)
        reader.classes = names
        return LabelledImages(reader, self.preprocess, self.indices, self.skipped)

    def stored_sizes(self, *, progress: bool = False) -> dict[str, tuple[int, int]]:
        """The stored (height, width) of up to 64 images by their names; `progress` shows a bar."""
        rows = spread(len(self), PEEKS)
        sizes = {}
        with progress_bar(len(rows), "sizes of images", "image", shown=progress) as bar:
            for row in rows:
                _, sizes[self.name(row)] = self.reader.shape(int(self.indices[row]))
                bar.update()
        return sizes

    def _differing(self) -> ValueError:
        """The error about images that differ in size where they should have one."""
        names: dict[tuple[int, int], str] = {}  # the first image of each size
        for name, size in self.stored_sizes().items():
            names.setdefault(size, name)
        shown = [f"{name} has {height} x {width}" for (height, width), name in names.items()]
        found = f"differ in size: {' and '.join(shown[:2])} pixels"
        if len(shown) < 2:
            found = "may differ in size, as the data do that they are from"
        return ValueError(f"images {found}; {RESIZE}")


def assemble(
    reader: Reader,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> LabelledImages:
    """Make a dataset of a reader's images; see `open_dataset` for the arguments.

    Raises:
        ValueError: If there is no image, a label is out of range, or one of the first images has
            channels that are not converted.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}")
    indices = torch.arange(len(reader.targets))
    skipped: list[str] = []
    where = reader.where
    if on_error == "skip" and len(indices):
        # All images are decoded once here, so every process sees the same length and labels.
        decodable = torch.tensor(list(_decodable(reader, progress)))
        skipped = [reader.name(index) for index in indices[~decodable].tolist()]
        indices = indices[decodable]
    if skipped:
        where = f"{where} (without {len(skipped)} images that cannot be decoded)"
    if not len(indices):
        raise ValueError(f"{where} holds no images")
    labels = reader.targets[indices]
    count = len(reader.classes)
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        raise ValueError(
            f"labels must be 0..{count - 1} for {count} classes; {where} has the label "
            f"{int(wrong[0])}"
        )
    size = None if image_size is None else as_size(image_size)
    if size is not None and channels is not None and convert:
        preprocess = Preprocess(channels, size)
    else:
        preprocess = _infer_preprocess(reader, indices, size, channels, convert, progress)
    return LabelledImages(reader, preprocess, indices, skipped)


def _infer_preprocess(
    reader: Reader,
    indices: Tensor,
    size: tuple[int, int] | None,
    channels: int | None,
    convert: bool,
    progress: bool,
) -> Preprocess:
    """The preprocessing, with channels, and a size if they have one, taken from the images.

    The shapes of up to 64 images are read. An image that does not fit raises ValueError.
    """
    rows = indices[spread(len(indices), PEEKS)].tolist()
    stored_channels = []
    stored_sizes = []
    with progress_bar(len(rows), "first images", "image", shown=progress) as bar:
        for row in rows:
            image_channels, image_size = reader.shape(row)
            stored_channels.append(image_channels)
            stored_sizes.append(image_size)
            bar.update()
    resize = size is not None
    if len(set(stored_sizes)) == 1:
        size = size or stored_sizes[0]
    preprocess = Preprocess(
        channels or max(stored_channels),
        size,
        convert=convert and channels is not None,
        resize=resize,
    )
    for row, image_channels, image_size in zip(rows, stored_channels, stored_sizes, strict=True):
        preprocess.check(image_channels, image_size, reader.name(row))
    return preprocess


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`: the first, the last and every k-th between."""
    positions = torch.linspace(0, count - 1, min(most, count), dtype=torch.float64)
    return positions.round().long().tolist()


def _decodable(reader: Reader, progress: bool) -> Iterator[bool]:
    """Whether each image can be decoded.

    All pixels are decoded, since the header of a truncated file is whole.
    """

    def decodes(index: int) -> bool:
        try:
            reader.read(index)
        except ImageDecodeError:
            return False
        return True

    return run_over(
        decodes,
        len(reader.targets),
        "checking images",
        threads=reader.threads,
        progress=progress,
    )


def split_per_class(
    dataset: LabelledImages, n: int, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Split off n random images of every class; return them and the rest, each in the old order.

    A class with fewer images gives all that it has. The same seed chooses the same images, and a
    larger n includes the images of a smaller n.

    Raises:
        ValueError: If n is below 1, or the seed is not a whole number that torch takes.
    """
    n = check_whole("per_class", n)
    generator = torch.Generator().manual_seed(check_seed(seed))
    return dataset.split(choose_per_class(dataset.targets, n, generator))


def to_tensors(
    dataset: LabelledImages,
    progress: bool = True,
    *,
    out: Tensor | None = None,
    stop: threading.Event | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode all images: uint8 images (N, C, H, W), into `out` if given, and int64 labels (N,).

    Raises:
        InterruptedError: `stop` was set before the last image.
    """
    images = out
    if images is None:
        shape = (len(dataset), dataset.channels, *dataset.image_size)
        images = torch.empty(shape, dtype=torch.uint8)
    threads = dataset.reader.threads
    decoded = run_over(
        dataset.image, len(dataset), "reading images", threads=threads, progress=progress
    )
    for index, image in enumerate(decoded):
        images[index] = image
        if stop is not None and stop.is_set():
            raise InterruptedError("images are not needed any more")
    return images, dataset.targets


def run_over(
    function: Callable[[int], T],
    count: int,
    description: str,
    *,
    threads: bool,
    progress: bool = True,
) -> Iterator[T]:
    """Yield function(0), function(1), ... in order, with a progress bar."""
    bar = progress_bar(count, description, "image", shown=progress)
    with bar, ThreadPoolExecutor(own_cores()) as pool:
        try:
            for start in range(0, count, 1024):  # a pool's map() queues all calls at once
                block = range(start, min(start + 1024, count))
                results = pool.map(function, block) if threads else map(function, block)
                for result in results:
                    yield result
                    bar.update()
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C no image is begun any more
