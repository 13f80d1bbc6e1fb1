"""What a data source gives: a reader of stored images with their labels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from .decode import ImageDecodeError, decode_image

__all__ = ["ArrayReader", "FileReader", "Reader", "Request", "read_part"]

# Bytes of an image file. PIL accepts as many pixels of three bytes by default.
_LARGEST = 2**29


@dataclass(eq=False, kw_only=True)
class Reader(ABC):
    """Stored images, with labels that need no decoding.

    Readers hold no open file: they are copied into worker processes and shared by threads.

    Attributes:
        where: The name of the data in messages.
        classes: Class names in label order.
        targets: The label of every image, int64, shape (N,).
        paths: For files, the path of every image below the folder of classes: "cat/1.png".
        threads: Whether `read` may be called from several threads at once, and gains from it.
    """

    where: str
    classes: list[str]
    targets: Tensor
    paths: list[str] | None = None
    threads: ClassVar[bool] = False

    @abstractmethod
    def read(self, index: int) -> Image.Image | Tensor:
        """The image: decoded PIL, or uint8 (C, H, W).

        Raises:
            ImageDecodeError: If it is damaged.
        """

    def name(self, index: int) -> str:
        """The name of an image in messages."""
        return f"image {index} of {self.where}"

    def content(self, index: int) -> bytes:
        """Bytes that tell the image from others: those of its file, or its pixels."""
        pixels = np.asarray(self.read(index))
        return str(pixels.shape).encode() + pixels.tobytes()


class FileReader(Reader):
    """Encoded image files."""

    threads: ClassVar[bool] = True

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """The bytes of a file.

        Raises:
            ImageDecodeError: If it is too large for an image.
        """

    def content(self, index: int) -> bytes:
        return self.read_bytes(index)

    def read(self, index: int) -> Image.Image:
        return decode_image(self.read_bytes(index), self.name(index))


@dataclass(eq=False, kw_only=True)
class ArrayReader(Reader):
    """uint8 images (N, C, H, W) in memory."""

    images: Tensor

    def read(self, index: int) -> Tensor:
        return self.images[index]


@dataclass(frozen=True)
class Request:
    """The arguments of `open_dataset` that say which images are meant; see there."""

    data: str
    split: str = "train"
    data_dir: str | None = None
    download: bool = False
    labels: bool = True

    @property
    def path(self) -> Path:
        """`data` as a path."""
        return Path(self.data).expanduser()


def read_part(file: Path, name: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of an image: those of a file, or `size` of them from `offset` on.

    Args:
        file: The file.
        name: The name of the image in messages.
        offset: Where the image starts in the file.
        size: Number of bytes; None for the size of the file.

    Raises:
        ImageDecodeError: The image has more than 512 MiB, as a sparse file may.
    """
    # The file is opened each time, since workers would share the position of an open one.
    with file.open("rb") as opened:
        if size is None:
            size = os.fstat(opened.fileno()).st_size
        if size > _LARGEST:
            raise ImageDecodeError(
                f"{name} has {size} bytes, more than an image file of {_LARGEST}; remove it, or "
                'skip such files with on_error="skip" (--on-error skip)'
            )
        opened.seek(offset)
        return opened.read(size)
