"""The seam between stored images and data sets: a reader, and the data set made of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from .images import LabelledImages, run_over, validate_labels
from .preprocess import Preprocess, channels_of, size_of

__all__ = ["ImageDecodeError", "Reader", "ReaderImages", "assemble"]

PEEKS = 64  # images that are looked at to infer the number of channels


class ImageDecodeError(ValueError):
    """An image that cannot be decoded; the message names it."""


class Reader(ABC):
    """Images as they are stored, with labels that need no decoding.

    Attributes:
        where: What to call the data in messages.
        classes: Class names, in the order of their indices.
        targets: The label of every image, int64, shape (N,).
        complete: Whether every class must have an image; a held-out split may lack some.
        threads: Whether `read` may and should be called from several threads at once.
    """

    where: str
    classes: list[str]
    targets: Tensor
    complete: bool = True
    threads: bool = False

    @abstractmethod
    def name(self, index: int) -> str:
        """A name for messages and for the list of skipped images."""

    @abstractmethod
    def read(self, index: int) -> Image.Image | Tensor:
        """The image: decoded PIL, or uint8 (C, H, W).

        Raises:
            ImageDecodeError: If it is corrupt.
        """

    def peek(self, index: int) -> Image.Image | Tensor:
        """As `read`, but the pixels need not be decoded: for the mode and the size."""
        return self.read(index)

    @abstractmethod
    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        """What tells these images from others, cheaply: to be hashed."""


class ReaderImages(LabelledImages):
    """Images that are read and preprocessed when they are asked for; see `LabelledImages`."""

    def __init__(
        self, reader: Reader, preprocess: Preprocess, indices: Tensor, skipped: Sequence[str] = ()
    ) -> None:
        self.reader, self.preprocess, self.indices = reader, preprocess, indices
        self.classes, self.targets = reader.classes, reader.targets[indices]
        self.channels, self.image_size = preprocess.channels, preprocess.image_size
        self.preprocessing = preprocess.to_dict()
        self.skipped = list(skipped)
        self.threads = reader.threads

    def image(self, index: int) -> Tensor:
        stored = int(self.indices[index])
        return self.preprocess(self.reader.read(stored), self.reader.name(stored))

    def name(self, index: int) -> str:
        return self.reader.name(int(self.indices[index]))

    def subset(self, indices: Tensor) -> ReaderImages:
        return ReaderImages(self.reader, self.preprocess, self.indices[indices], self.skipped)

    def identify(self) -> Iterator[bytes]:
        return self.reader.identify(self.indices.tolist())


def assemble(
    reader: Reader,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> ReaderImages:
    """Check a reader's labels, infer what is not given from the first images, make a data set.

    Raises:
        ValueError: If there is no image, a label is out of range, a class has no image, or the
            first images differ where something is to be inferred.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    if channels is not None and channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    size = None if image_size is None else _pair(image_size)
    indices = torch.arange(len(reader.targets))
    skipped: list[str] = []
    where = reader.where
    if on_error == "skip" and len(indices):
        # Once, here: then the length, the labels and the count are right in every process.
        fine = torch.tensor([*_scan(reader)])
        skipped = [reader.name(index) for index in indices[~fine].tolist()]
        indices = indices[fine]
        where += f" (without {len(skipped)} images that cannot be decoded)" if skipped else ""
    if not len(indices):
        raise ValueError(f"{where} holds no image")
    validate_labels(
        reader.targets[indices],
        len(reader.classes),
        classes=reader.classes,
        complete=reader.complete,
        where=where,
    )
    return ReaderImages(reader, _infer(reader, indices, size, channels), indices, skipped)


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(
            f"image_size must be a number of pixels or (height, width), got {image_size!r}"
        )
    return int(sizes[0]), int(sizes[1])


def _scan(reader: Reader) -> Iterator[bool]:
    """Whether each image can be decoded; a look at headers would pass a truncated file."""

    def decodes(index: int) -> bool:
        try:
            reader.read(index)
        except ImageDecodeError:
            return False
        return True

    return run_over(decodes, len(reader.targets), "checking images", threads=reader.threads)


def _infer(
    reader: Reader, indices: Tensor, size: tuple[int, int] | None, channels: int | None
) -> Preprocess:
    if size is not None and channels is not None:
        return Preprocess(channels, size)
    places = torch.linspace(0, len(indices) - 1, min(PEEKS, len(indices))).long()
    peeks = [(index, reader.peek(index)) for index in indices[places].tolist()]
    found = {channels_of(image) for _, image in peeks}
    if channels is None and len(found) > 1 and found != {1, 3}:
        raise ValueError(
            f"the images of {reader.where} have different numbers of channels: {sorted(found)}"
        )
    preprocess = Preprocess(
        channels=channels or max(found),
        image_size=size or size_of(peeks[0][1]),
        convert=channels is not None,
        resize=size is not None,
    )
    for index, image in peeks:
        preprocess.check(image, reader.name(index))
    return preprocess
