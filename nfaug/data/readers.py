"""Readers of stored images, and the data set made from one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from .checks import check_labels
from .decode import MAX_PIXELS, ImageDecodeError
from .images import LabelledImages, run_over
from .preprocess import Preprocess, channels_of, size_of

__all__ = ["ImageDecodeError", "Reader", "ReaderImages", "assemble"]

PEEKS = 64  # images from which channels are inferred


class Reader(ABC):
    """Images as they are stored, with labels that need no decoding.

    Attributes:
        where: The name of the data in messages.
        classes: Class names in label order.
        targets: The label of every image, int64, shape (N,).
        complete: Whether every class must have an image. A held-out split may lack some.
        threads: Whether `read` may be called from several threads at once, and gains from it.
        max_pixels: The largest number of pixels of an image, before and after resizing.
    """

    where: str
    classes: list[str]
    targets: Tensor
    complete: bool = True
    threads: bool = False
    max_pixels: int = MAX_PIXELS

    @abstractmethod
    def name(self, index: int) -> str:
        """The name of an image, for messages and for the list of skipped images."""

    @abstractmethod
    def read(self, index: int) -> Image.Image | Tensor:
        """The image: decoded PIL, or uint8 (C, H, W).

        Raises:
            ImageDecodeError: If it is damaged.
        """

    def peek(self, index: int) -> Image.Image | Tensor:
        """Like `read`, for the mode and the size only: pixels need not be decoded."""
        return self.read(index)

    @abstractmethod
    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Bytes that distinguish these images from others, at little cost, to be hashed."""

    def contents_hash(self, indices: Sequence[int]) -> str:
        """See `LabelledImages.contents_hash`."""
        return ""


class ReaderImages(LabelledImages):
    """Images that are read and preprocessed on access; see `LabelledImages`."""

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

    def contents_hash(self) -> str:
        return self.reader.contents_hash(self.indices.tolist())


def assemble(
    reader: Reader,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
    scale_16_bit: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
) -> ReaderImages:
    """Make a data set of a reader's images; see `open_dataset` for the arguments.

    Raises:
        ValueError: If there is no image, a label is out of range, a class has no image, or the
            first images differ in what must be inferred from them.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip"; got {on_error!r}')
    if channels is not None and channels < 1:
        raise ValueError(f"channels must be at least 1; got {channels}")
    size = None if image_size is None else _pair(image_size)
    preprocess = Preprocess(
        channels or 1,
        size or (1, 1),
        convert=convert and channels is not None,
        resize=size is not None,
        scale_16_bit=scale_16_bit,
        max_pixels=reader.max_pixels,
    )
    indices = torch.arange(len(reader.targets))
    skipped: list[str] = []
    where = reader.where
    if on_error == "skip" and len(indices):
        # All images are decoded once here, so every process sees the same length and labels.
        fine = torch.tensor([*_scan(reader, preprocess)])
        skipped = [reader.name(index) for index in indices[~fine].tolist()]
        indices = indices[fine]
        where += f" (without {len(skipped)} images that cannot be decoded)" if skipped else ""
    if not len(indices):
        raise ValueError(f"{where} holds no images")
    check_labels(
        reader.targets[indices],
        len(reader.classes),
        classes=reader.classes,
        complete=reader.complete,
        where=where,
    )
    if size is None or channels is None or not convert:
        places = torch.linspace(0, len(indices) - 1, min(PEEKS, len(indices))).long()
        peeks = [(reader.peek(i), reader.name(i)) for i in indices[places].tolist()]
        found = {channels_of(image) for image, _ in peeks}
        if channels is None and len(found) > 1 and found != {1, 3}:
            raise ValueError(
                f"the images of {where} have different numbers of channels: {sorted(found)}"
            )
        preprocess = replace(
            preprocess, channels=channels or max(found), image_size=size or size_of(peeks[0][0])
        )
        for image, name in peeks:
            preprocess.check(image, name)
    return ReaderImages(reader, preprocess, indices, skipped)


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(
            f"image_size must be a number of pixels or (height, width); got {image_size!r}"
        )
    return int(sizes[0]), int(sizes[1])


def _scan(reader: Reader, preprocess: Preprocess) -> Iterator[bool]:
    """Whether each image can be decoded. Pixels are decoded, since headers outlive truncation."""

    def decodes(index: int) -> bool:
        try:
            preprocess.check_decodable(reader.read(index), "")
        except ImageDecodeError:
            return False
        return True

    return run_over(decodes, len(reader.targets), "checking images", threads=reader.threads)
