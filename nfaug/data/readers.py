"""Readers of stored images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from PIL import Image
from torch import Tensor

from .decode import MAX_PIXELS, ImageDecodeError

__all__ = ["ArrayReader", "ImageDecodeError", "Reader"]


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
        """SHA-256 of the contents of files; empty for images that are not files."""
        return ""


class ArrayReader(Reader):
    """uint8 images (N, C, H, W) and their labels."""

    def __init__(
        self, images: Tensor, targets: Tensor, classes: list[str], where: str, complete: bool = True
    ) -> None:
        self.images, self.targets, self.classes = images, targets, classes
        self.where, self.complete = where, complete

    def name(self, index: int) -> str:
        return f"image {index} of {self.where}"

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for start in range(0, len(indices), 4096):
            yield self.images[list(indices[start : start + 4096])].numpy().tobytes()
