"""Source: the images that a bank is made from, each with a hash that identifies it.

The hash is the SHA-256 of the image's file, or of its decoded pixels before any resizing if it has
no file.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..data.decode import ImageDecodeError, decode_image, upright
from ..data.images import LabelledImages, spread
from ..data.preprocess import Preprocess, size_of
from ..data.readers import read_part
from ..data.torch_datasets import part
from .format import array_sha256

__all__ = ["SAMPLED", "Source", "check_label", "label_of", "to_uint8"]

SAMPLED: int = 1024  # images whose hashes identify a data set
_DECODER_LEVELS = 4  # mean grey levels; two decoders of a JPEG file differ by less


class Source(Dataset[tuple[Tensor, Tensor]]):
    """The images of a data set, uint8 (C, H, W), each with its hash, uint8 (32,).

    Args:
        dataset: Items (image, label), untransformed PIL images or uint8 tensors (C, H, W). It may
            be a torch `Subset`.
        preprocess: Converts the images.
        labels: The label of every image, with which that of an item is compared when it is read.

    Attributes:
        paths: Path of the file of each image below the innermost folder that holds all files of
            the data set; empty if the images are not files.
    """

    def __init__(
        self, dataset: Any, preprocess: Preprocess, labels: np.ndarray | None = None
    ) -> None:
        self.preprocess = preprocess
        self.channels: int = preprocess.channels
        self._labels = labels
        self._rows: Sequence[int] = range(len(dataset))
        while isinstance(dataset, Subset):
            self._rows = [int(dataset.indices[row]) for row in self._rows]
            dataset = dataset.dataset
        self.dataset: Any = dataset
        self._files = _image_files(dataset)
        if isinstance(dataset, LabelledImages):
            paths = dataset.paths or []
        else:
            paths = _relative_paths(self._files)
        self.paths: list[str] = []
        if paths:
            self.paths = [paths[row] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.dataset[self._rows[index]]
        if self._labels is not None:
            check_label(item, index, int(self._labels[index]))
        image = to_uint8(part(item, "image"), self.channels)
        if self.paths or isinstance(self.dataset, LabelledImages):
            digest = self.digest(index)
        else:
            digest = _sha256(image)
        return self.preprocess(image, f"image {index}"), torch.from_numpy(digest.copy())

    def digest(self, index: int, *, pixels: bool = False) -> np.ndarray:
        """The hash of an image, uint8 (32,): of its file if it has one, unless `pixels` is set."""
        row = self._rows[index]
        of_file = bool(self.paths) and not pixels
        content: Any
        if isinstance(self.dataset, LabelledImages):
            row = int(self.dataset.indices[row])
            reader = self.dataset.reader
            content = reader.content(row) if of_file else reader.read(row)
        elif of_file:
            content = read_part(Path(self._files[row]), self._files[row])
        else:
            content = part(self.dataset[row], "image")
        if not isinstance(content, bytes):
            content = to_uint8(content, self.channels)
        return _sha256(content)

    def as_in_file(self, index: int) -> bool:
        """Whether an item, if it has a file, is the image in it."""
        if not self._files:
            return True
        row = self._rows[index]
        name = self._files[row]
        try:
            decoded = decode_image(read_part(Path(name), name), name)
        except ImageDecodeError:  # an array, which the data set's own loader reads
            return True
        file_pixels = to_uint8(decoded, self.channels).int()
        item_pixels = to_uint8(part(self.dataset[row], "image"), self.channels)
        if item_pixels.shape != file_pixels.shape:
            return False
        difference = (item_pixels - file_pixels).abs().float().mean()
        return float(difference) < _DECODER_LEVELS

    def sha256(self, labels: np.ndarray) -> str:
        """SHA-256 of all paths and labels, and of the hashes of up to 1,024 images."""
        hasher = hashlib.sha256("\n".join(self.paths).encode(errors="surrogateescape"))
        hasher.update(array_sha256(labels).encode())
        for index in spread(len(self), SAMPLED):
            hasher.update(self.digest(index).tobytes())
        return hasher.hexdigest()


def _image_files(dataset: Any) -> list[str]:
    """The file of each image of torchvision's ImageFolder or timm's ImageDataset, or []."""
    for holder in (dataset, getattr(dataset, "reader", None)):
        samples = getattr(holder, "samples", None)
        match samples:
            case [(str(first), _), *_] if os.path.isfile(first):
                return [file for file, _ in samples]
    return []


def _relative_paths(files: list[str]) -> list[str]:
    """The paths of files below the innermost folder that holds them all, with slashes."""
    if not files:
        return []
    paths = [os.path.normpath(file) for file in files]  # ./a//b as a/b
    folders = {os.path.dirname(path) for path in paths}
    shared = os.path.commonpath(folders)
    return [path[len(shared) :].replace(os.sep, "/").lstrip("/") for path in paths]


def _sha256(content: Tensor | bytes) -> np.ndarray:
    """SHA-256 of a file or of pixels and their shape, uint8 (32,)."""
    if isinstance(content, Tensor):
        shape = repr(tuple(content.shape)).encode()
        content = shape + content.numpy().tobytes()
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def label_of(item: Any, index: int) -> int:
    """The label of an item as an int.

    Raises:
        ValueError: It is no whole number.
    """
    label = part(item, "label")
    try:
        return operator.index(label)
    except TypeError:
        raise ValueError(f"labels must be whole numbers; image {index} has {label!r:.40}") from None


def check_label(item: Any, index: int, expected: int) -> None:
    """Raise ValueError unless an item has the label that is stored, or that the bank has."""
    label = label_of(item, index)
    if label != expected:
        raise ValueError(
            f"image {index} has the label {label} when it is read, and {expected} is stored for it "
            "(`targets`), or was when the bank was made. Correct `targets`, make the bank anew, or "
            "remove an unreadable file in whose place the data set gives another image"
        )


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image, turned upright, or a uint8 tensor as contiguous uint8 (C, H, W)."""
    if isinstance(image, Image.Image):
        image = upright(image)
    elif not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3)):
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(
            "images of a bank must be untransformed PIL images or uint8 tensors (C, H, W); got "
            f"{kind}. Write dataset.transform = None, and pass the transform to "
            "BankDataset(dataset, bank, transform=transform)"
        )
    elif image.ndim == 2:
        image = image[None]
    return Preprocess(channels, size_of(image))(image, "an image of the bank")
