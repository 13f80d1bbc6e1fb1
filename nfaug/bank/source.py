"""Source: the images that a bank is made from, and what tells them from others.

An image has a hash, SHA-256: of its file if it has one, and otherwise of its decoded pixels as they
are stored, before any resizing.
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

SAMPLED = 1024  # images whose hashes identify a data set


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
        self.channels = preprocess.channels
        self._labels = labels
        self._rows: Sequence[int] = range(len(dataset))
        while isinstance(dataset, Subset):
            self._rows = [int(dataset.indices[row]) for row in self._rows]
            dataset = dataset.dataset
        self.dataset, self._files = dataset, _files(dataset)
        names = [*map(os.path.normpath, self._files)]  # ./a//b as a/b
        shared = os.path.commonpath({*map(os.path.dirname, names)}) if names else ""
        paths = [name[len(shared) :].replace(os.sep, "/").lstrip("/") for name in names]
        if isinstance(dataset, LabelledImages):
            paths = dataset.paths or []
        self.paths = [paths[row] for row in self._rows] if paths else []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.dataset[self._rows[index]]
        if self._labels is not None:
            check_label(item, index, int(self._labels[index]))
        image = to_uint8(part(item, "image"), self.channels)
        as_stored = not self.paths and not isinstance(self.dataset, LabelledImages)
        digest = _hash_of(image) if as_stored else self.digest(index)
        return self.preprocess(image, f"image {index}"), torch.from_numpy(digest.copy())

    def digest(self, index: int, *, pixels: bool = False) -> np.ndarray:
        """The hash of an image, uint8 (32,): of its file if it has one, unless `pixels` is set."""
        row = self._rows[index]
        of_file = bool(self.paths) and not pixels
        stored: Any
        if isinstance(self.dataset, LabelledImages):
            row = int(self.dataset.indices[row])
            reader = self.dataset.reader
            stored = reader.content(row) if of_file else reader.read(row)
        elif of_file:
            stored = read_part(Path(self._files[row]), self._files[row])
        else:
            stored = part(self.dataset[row], "image")
        return _hash_of(stored if isinstance(stored, bytes) else to_uint8(stored, self.channels))

    def as_in_file(self, index: int) -> bool:
        """Whether an item, if it has a file, is the image in it."""
        if not self._files:
            return True
        row = self._rows[index]
        name = self._files[row]
        try:
            file = decode_image(read_part(Path(name), name), name)
        except ImageDecodeError:  # an array, which the data set's own loader reads
            return True
        stored = to_uint8(file, self.channels).int()
        found = to_uint8(part(self.dataset[row], "image"), self.channels)
        # Decoders of JPEG differ by fewer levels.
        return found.shape == stored.shape and float((found - stored).abs().float().mean()) < 4

    def sha256(self, labels: np.ndarray) -> str:
        """SHA-256 of all paths and labels, and of the hashes of up to 1,024 images."""
        hasher = hashlib.sha256("\n".join(self.paths).encode(errors="surrogateescape"))
        hasher.update(array_sha256(labels).encode())
        for index in spread(len(self), SAMPLED):
            hasher.update(self.digest(index).tobytes())
        return hasher.hexdigest()


def _files(dataset: Any) -> list[str]:
    """The file of each image of torchvision's ImageFolder or timm's ImageDataset, or []."""
    for holder in (dataset, getattr(dataset, "reader", None)):
        match getattr(holder, "samples", None):
            case [(str(first), _), *_] as samples if os.path.isfile(first):
                return [file for file, _ in samples]
    return []


def _hash_of(value: Tensor | bytes) -> np.ndarray:
    if isinstance(value, Tensor):
        value = repr(tuple(value.shape)).encode() + value.numpy().tobytes()
    return np.frombuffer(hashlib.sha256(value).digest(), np.uint8)


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
        raise ValueError(
            "images of a bank must be untransformed PIL images or uint8 tensors (C, H, W); got "
            f"{image.dtype if isinstance(image, Tensor) else type(image).__name__}. Write "
            "dataset.transform = None, and pass the transform to BankDataset(dataset, bank, "
            "transform=transform)"
        )
    image = image[None] if isinstance(image, Tensor) and image.ndim == 2 else image
    return Preprocess(channels, size_of(image))(image, "an image of the bank")
