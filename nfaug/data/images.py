"""Labelled 8-bit images of one shape: what flows are trained on and fitted to."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from .preprocess import Preprocess

__all__ = [
    "LabelledImages",
    "TensorImages",
    "run_over",
    "split_per_class",
    "to_tensors",
    "validate_labels",
]

T = TypeVar("T")


class LabelledImages(Dataset[tuple[Tensor, int]], ABC):
    """Labelled images: item i is a contiguous uint8 tensor (C, H, W) and an int in [0, K).

    Attributes:
        classes: The K class names, in the order of their indices.
        targets: The label of every image, int64, shape (N,).
        channels: C.
        image_size: (H, W) in pixels.
        preprocessing: How stored images became these, as JSON values.
        skipped: Names of the images that could not be decoded and were left out.
        threads: Whether `image` may and should be called from several threads at once.
    """

    classes: list[str]
    targets: Tensor
    channels: int
    image_size: tuple[int, int]
    preprocessing: dict[str, Any]
    skipped: list[str]
    threads: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]  # negative indices, and IndexError
        return self.image(index), int(self.targets[index])

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The index of every class name."""
        return {name: index for index, name in enumerate(self.classes)}

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, that tells these data from others without decoding images.

        It covers classes, labels and order, and of the images: names and sizes of files, all bytes
        of arrays, or 64 images of a wrapped data set. Preprocessing and place do not count.
        """
        hasher = hashlib.sha256(json.dumps(self.classes).encode())
        hasher.update(self.targets.numpy().tobytes())
        for part in self.identify():
            hasher.update(part)
        return hasher.hexdigest()

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Image number `index`, uint8 (C, H, W)."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A name for messages, such as the path of the file."""

    @abstractmethod
    def subset(self, indices: Tensor) -> LabelledImages:
        """The images at these indices; the classes stay, even one that loses all its images."""

    @abstractmethod
    def identify(self) -> Iterator[bytes]:
        """What tells these images from others, cheaply: to be hashed."""


class TensorImages(LabelledImages):
    """Images in memory; see `LabelledImages`.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: Integers in [0, K), shape (N,). A class may have no image.
        classes: The K names; by default the numbers up to the largest label.

    Raises:
        ValueError: If shapes, dtypes or labels do not fit.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"images must be uint8 of shape ({len(labels)}, C, H, W), one per label, got "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        if classes is None:
            classes = [str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0)]
        self.classes = list(classes)
        self.targets = validate_labels(labels, len(classes), complete=False)
        self.images = images
        self.channels = images.shape[1]
        self.image_size = (images.shape[2], images.shape[3])
        self.preprocessing = Preprocess(self.channels, self.image_size, resize=False).to_dict()
        self.skipped = []

    @property
    def labels(self) -> Tensor:
        """The labels, int64, shape (N,): another name of `targets`."""
        return self.targets

    def image(self, index: int) -> Tensor:
        return self.images[index].contiguous()

    def name(self, index: int) -> str:
        return f"image {index}"

    def subset(self, indices: Tensor) -> TensorImages:
        return TensorImages(self.images[indices], self.targets[indices], self.classes)

    def identify(self) -> Iterator[bytes]:
        return (part.numpy().tobytes() for part in self.images.split(4096))


def validate_labels(
    targets: Tensor | Sequence[int],
    num_classes: int | None = None,
    *,
    classes: Sequence[str] | None = None,
    complete: bool = True,
    where: str = "the data set",
) -> Tensor:
    """Check that labels are integers 0..K-1, and return them as int64 of shape (N,).

    Args:
        targets: The labels.
        num_classes: K; None for the number of names, or else the largest label plus 1.
        classes: Class names, for the messages.
        complete: Whether there must be images, and some of every class.
        where: What to call the data in messages.

    Raises:
        ValueError: If a label is no integer or out of range, or a class has no image.
    """
    labels = torch.as_tensor(targets)
    if not len(labels):
        if complete:
            raise ValueError(f"{where} holds no image")
        return labels.to(torch.int64)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole:
        raise ValueError(
            f"labels must be integers of shape (N,), {where} has {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    labels = labels.to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if num_classes is None:
        num_classes = high + 1 if classes is None else len(classes)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must be 0..{num_classes - 1} for {num_classes} classes, {where} has labels "
            f"from {low} to {high}"
        )
    empty = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if complete and empty:
        names = [str(label) if classes is None else repr(classes[label]) for label in empty]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"{where} has no image of {len(empty)} of its {num_classes} classes: {shown}; labels "
            "must be 0..K-1 with at least one image each"
        )
    return labels


def split_per_class(
    dataset: LabelledImages, n: int, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Choose n random images of every class; return them and the rest, each in the old order.

    The same seed chooses the same images, and a larger n all of those of a smaller one.

    Raises:
        ValueError: If n is below 1, or a class has fewer images.
    """
    if n < 1:
        raise ValueError(f"the number of images per class must be at least 1, got {n}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(dataset), dtype=torch.bool)
    for label, name in enumerate(dataset.classes):
        rows = (dataset.targets == label).nonzero().flatten()
        if len(rows) < n:
            raise ValueError(f"class {name!r} has {len(rows)} images, {n} per class are asked for")
        chosen[rows[torch.randperm(len(rows), generator=generator)[:n]]] = True
    return dataset.subset(chosen.nonzero().flatten()), dataset.subset((~chosen).nonzero().flatten())


def to_tensors(dataset: LabelledImages, progress: bool = True) -> tuple[Tensor, Tensor]:
    """Decode everything: uint8 images (N, C, H, W) and int64 labels (N,).

    Those of a `TensorImages` are handed out as they are. `progress` shows a bar, on terminals and
    after a second.
    """
    if isinstance(dataset, TensorImages):
        return dataset.images, dataset.targets
    shape = (len(dataset), dataset.channels, *dataset.image_size)
    images = torch.empty(shape, dtype=torch.uint8)
    decoded = run_over(
        dataset.image, len(dataset), "reading images", threads=dataset.threads, progress=progress
    )
    for index, image in enumerate(decoded):
        images[index] = image
    return images, dataset.targets


def run_over(
    function: Callable[[int], T],
    count: int,
    description: str,
    *,
    threads: bool,
    progress: bool = True,
) -> Iterator[T]:
    """function(0), function(1), ..., in order, with a bar, and with threads where these help."""

    def results() -> Iterator[T]:
        if not threads:
            yield from map(function, range(count))
            return
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # In blocks: map() would queue everything at once.
            for start in range(0, count, 1024):
                yield from pool.map(function, range(start, min(start + 1024, count)))

    # disable=None leaves the bar out where the output is no terminal.
    hidden = None if progress else True
    yield from tqdm(results(), desc=description, total=count, unit="image", disable=hidden, delay=1)
