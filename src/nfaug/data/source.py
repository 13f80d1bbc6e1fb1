"""Where images are: a source of stored images with their labels."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image
from torch import Tensor

from .image_files import ImageDecodeError, decode_image, read_header, to_8_bits
from .resize import as_pixels, channels_of, channels_of_mode, size_of, strips
from .view import Header

# Bytes of an image file. PIL accepts as many pixels of three bytes by default.
_LARGEST = 2**29


@dataclass(eq=False, kw_only=True)
class Source(ABC):
    """Stored images, with labels that need no decoding.

    Sources hold no open file: they are copied into worker processes and shared by threads.

    Attributes:
        where: The name of the data in messages.
        classes: Class names in label order.
        targets: The label of every image, int64, shape (N,).
        paths: For files, the path of each image below the folder of classes: "cat/1.png".
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

    def header(self, index: int) -> Header:
        """Channels and size of the image; of a file, mostly without decoding it.

        Raises:
            ImageDecodeError: If this cannot be read. Pixels may be damaged nevertheless.
        """
        image = self.read(index)
        return Header(channels_of(image), size_of(image))

    def name(self, index: int) -> str:
        """The name of an image in messages."""
        return f"image {index} of {self.where}"

    def file(self, index: int) -> bytes | None:
        """The bytes of the image's file; None for an image without a path."""
        return None

    def digest(self, index: int) -> bytes:
        """SHA-256 of the image's file if it has a path, else of its pixels."""
        content = self.file(index)
        if content is None:
            return pixels_sha256(self.read(index))
        return hashlib.sha256(content).digest()

    def read_with_digest(self, index: int) -> tuple[Image.Image | Tensor, bytes]:
        """The image, and its `digest`, of which each is read once."""
        image = self.read(index)
        content = self.file(index)
        if content is None:
            return image, pixels_sha256(image)
        return image, hashlib.sha256(content).digest()


@dataclass(eq=False, kw_only=True)
class FileSource(Source):
    """Encoded image files, each with a path."""

    paths: list[str]
    threads: ClassVar[bool] = True

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """The bytes of a file.

        Raises:
            ImageDecodeError: If it is too large for an image.
        """

    def file(self, index: int) -> bytes:
        return self.read_bytes(index)

    def read(self, index: int) -> Image.Image:
        return decode_image(self.read_bytes(index), self.name(index))

    def header(self, index: int) -> Header:
        mode, size = read_header(self.read_bytes(index), self.name(index))
        return Header(channels_of_mode(mode), size)

    def read_with_digest(self, index: int) -> tuple[Image.Image | Tensor, bytes]:
        content = self.read_bytes(index)
        image = decode_image(content, self.name(index))
        return image, hashlib.sha256(content).digest()


@dataclass(eq=False, kw_only=True)
class ArraySource(Source):
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
    progress: bool = True

    @property
    def path(self) -> Path:
        """`data` as a path."""
        return Path(self.data).expanduser()


def pixels_sha256(image: Image.Image | Tensor) -> bytes:
    """SHA-256 of the shape and the pixels of an image, the same for PIL images and tensors.

    A grayscale image has the hash of its RGB form, since some loaders convert all images to RGB.
    """
    channels = channels_of(image)
    if channels == 1:
        channels = 3
    if not isinstance(image, Tensor):
        image = to_8_bits(image)
    sha = hashlib.sha256(repr((channels, *size_of(image))).encode())
    planes: Sequence[int | slice] = range(channels)  # no large image is converted as a whole
    if size_of(next(strips(image))) == size_of(image):
        planes = [slice(None)]
    for plane in planes:
        for strip in strips(image):
            sha.update(as_pixels(strip, channels)[plane].contiguous().numpy().data)
    return sha.digest()


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
