"""Source: the images that a bank is made from, and what tells them from others.

An image has a hash of 16 bytes (BLAKE2b): of its file in folders and tars of images, and otherwise
of its decoded pixels as they are stored, before any resizing.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from ..data.classes import labels_of
from ..data.decode import upright
from ..data.images import LabelledImages
from ..data.preprocess import Preprocess, size_of
from ..data.torch_datasets import DatasetReader
from .format import HASH_BYTES, array_sha256

__all__ = ["Source", "spread", "to_uint8"]

_SAMPLED = 1024  # images whose hashes identify a data set


class Source:
    """The images of a data set, for a flow of `channels` channels.

    Attributes:
        dataset: Items (image, label), untransformed PIL images or uint8 tensors (C, H, W).
        paths: Path of the file of each image below the innermost folder that holds all of them;
            empty if the images are not files.
    """

    def __init__(self, dataset: Any, channels: int) -> None:
        self.dataset, self.channels = dataset, channels
        names, self._read_file, self._rows = _files(dataset)
        self.paths = _relative([names[row] for row in self._rows] if names else [])

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Tensor, np.ndarray]:
        """An image of the data set, uint8 (C, H, W), and its hash."""
        image = to_uint8(self.dataset[index][0], self.channels)
        as_stored = not self.paths and not isinstance(self.dataset, LabelledImages)
        return image, _hash_of(image) if as_stored else self.digest(index)

    def digest(self, index: int, *, pixels: bool = False) -> np.ndarray:
        """The hash of an image, uint8 (16,): of its file if it has one, unless `pixels` is set."""
        if self.paths and not pixels:
            return _hash_of(self._read_file(self._rows[index]))
        return _hash_of(to_uint8(_stored(self.dataset, index), self.channels))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels of all images, int64 (N,)."""
        return labels_of(self.dataset)

    def sha256(self) -> str:
        """SHA-256 of all paths and labels, and of the hashes of up to 1,024 images."""
        hasher = hashlib.sha256("\n".join(self.paths).encode(errors="surrogateescape"))
        hasher.update(array_sha256(self.labels).encode())
        for index in spread(len(self), _SAMPLED):
            hasher.update(self.digest(index).tobytes())
        return hasher.hexdigest()


def _files(dataset: Any) -> tuple[Sequence[str], Callable[[int], bytes], Sequence[int]]:
    """Paths of files, a function that reads one, and the row of each image among them.

    They are those of nfaug's readers of folders and tars, of torchvision's ImageFolder and timm's
    ImageDataset, also below a Subset or `wrap_dataset`. There are no paths if none is found.
    """
    rows: Sequence[int] = range(len(dataset))
    while isinstance(dataset, (Subset, LabelledImages, DatasetReader)):
        if not isinstance(dataset, DatasetReader):
            rows = [int(dataset.indices[row]) for row in rows]
        dataset = dataset.reader if isinstance(dataset, LabelledImages) else dataset.dataset
    if hasattr(dataset, "paths") and hasattr(dataset, "read_bytes"):
        return dataset.paths, dataset.read_bytes, rows
    names: list[str] = []
    for holder in (dataset, getattr(dataset, "reader", None)):
        samples: Any = getattr(holder, "samples", None)
        pairs = isinstance(samples, list) and samples and isinstance(samples[0], tuple)
        if pairs and isinstance(samples[0][0], str) and Path(samples[0][0]).is_file():
            names = [sample[0].replace(os.sep, "/") for sample in samples]
    return names, functools.partial(_read_path, names), rows


def _read_path(paths: Sequence[str], row: int) -> bytes:
    return Path(paths[row]).read_bytes()


def _stored(dataset: Any, index: int) -> Any:
    """An image as it is stored, before nfaug resizes it."""
    if isinstance(dataset, Subset):
        return _stored(dataset.dataset, dataset.indices[index])
    if isinstance(dataset, LabelledImages):
        return dataset.reader.read(int(dataset.indices[index]))
    return dataset[index][0]


def _hash_of(value: Tensor | bytes) -> np.ndarray:
    if isinstance(value, Tensor):
        value = repr(tuple(value.shape)).encode() + value.numpy().tobytes()
    return np.frombuffer(hashlib.blake2b(value, digest_size=HASH_BYTES).digest(), np.uint8)


def _relative(paths: list[str]) -> list[str]:
    folders = {path.rpartition("/")[0] for path in paths}
    shared = os.path.commonpath(folders) if folders and "" not in folders else ""
    return [path[len(shared) :].lstrip("/") for path in paths]


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, spread evenly, with the first and the last."""
    places: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return places


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image, turned upright, or a uint8 tensor as contiguous uint8 (C, H, W).

    Raises:
        ValueError: It is neither, or its channels cannot be converted.
    """
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
