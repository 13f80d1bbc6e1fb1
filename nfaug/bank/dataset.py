"""BankDataset: a data set that replaces images by variants from a bank."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from ..augment.counters import SharedValue
from ..augment.pixels import to_pil
from ..augment.settings import check_number
from ..data.classes import dataset_classes, stored_labels
from ..data.decode import upright
from ..data.images import spread
from ..data.preprocess import Preprocess, channels_of
from ..data.torch_datasets import part
from .reader import Bank
from .source import Source, to_uint8

__all__ = ["BankDataset", "match"]

_COMPARED = 32  # images whose hashes are compared
_DECODED = 4  # images whose pixels are compared with their files
_MAKE = "make a bank of this data set (nfaug bank, or nfaug.bank.make_bank)"


class BankDataset(Dataset[tuple[Any, int]]):
    """Items (image, label) of a data set, with the image replaced by a variant with probability p.

    Images are PIL images, to which `transform` is applied. It may be set later, as timm's
    `create_loader` does, and is taken over from the data set if that has one (the data set itself
    does not change). Other attributes are those of the data set.

    Images are matched with the bank by the paths of their files, in any order, and by order if they
    are not files. Labels, and hashes of up to 32 images, are compared on opening. A
    warning says if the data set changes images of files otherwise than by `transform`.

    A bank of whole images replaces an image, which is then not decoded. A residual bank adds a
    change to an image of any size, before `transform`. PIL images are turned upright as their EXIF
    orientation says, because `nfaug bank` reads files so.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import nfaug.bank
        >>> images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
        >>> data = torch.utils.data.TensorDataset(images, torch.arange(20) % 10)
        >>> checkpoint = nfaug.load("builtin:rgb32")
        >>> bank = nfaug.bank.make_bank(checkpoint, data, tempfile.mkdtemp(), progress=False)
        >>> image, label = nfaug.bank.BankDataset(data, bank, p=0.5)[3]
        >>> image.size, label
        ((32, 32), 3)

    Args:
        dataset: The data that the bank was made from, or some of its files.
        bank: The bank or its directory.
        p: Probability of a replacement. A change also takes effect in running data-loader workers.
            Images without a variant that differs from them are never replaced.
        transform: Applied to every image.

    Raises:
        ValueError: The bank was made from other data, another order or other classes.
    """

    def __init__(
        self,
        dataset: Any,
        bank: Bank | str | Path,
        p: float = 0.5,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.bank = bank if isinstance(bank, Bank) else Bank(bank)
        self.dataset, own = _split_transform(dataset)
        if own is not None and transform is not None:
            raise ValueError("the data set has a transform: pass transform= to one of the two")
        self.transform = transform if own is None else own
        self._p = SharedValue(check_number("p", p, 0, 1))
        self._rows, self._labels = match(self.dataset, self.bank)

    @property
    def p(self) -> float:
        """Probability of a replacement."""
        return float(self._p)

    @p.setter
    def p(self, value: float) -> None:
        self._p.set(check_number("p", value, 0, 1))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        bank, index = self.bank, range(len(self))[index]
        row = int(self._rows[index])
        replace, which = torch.rand(2, device="cpu").tolist()
        numbers = bank.applied[row].nonzero()[0] if replace < self.p else ()
        number = int(numbers[int(which * len(numbers))]) if len(numbers) else None
        if number is not None and not bank.manifest.residual:
            image = to_pil(bank.variant(row, number))
        else:
            image, channels = part(self.dataset[index], "image"), bank.manifest.shape[0]
            pil = isinstance(image, Image.Image)
            odd = channels_of(image) != channels if pil else isinstance(image, torch.Tensor)
            if number is not None or odd:
                image = to_uint8(image, channels).permute(1, 2, 0).numpy()
                image = to_pil(image if number is None else bank.variant(row, number, image))
            elif pil:
                image = upright(image)  # most data sets do not
        label = int(self._labels[index])
        return (image if self.transform is None else self.transform(image)), label

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _split_transform(dataset: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """A data set without its transform, and the transform; also that of a Subset's data set."""
    if isinstance(dataset, Subset):
        inner, transform = _split_transform(dataset.dataset)
        return (dataset if transform is None else Subset(inner, dataset.indices)), transform
    transform = getattr(dataset, "transform", None)
    if transform is None:
        return dataset, None
    plain = copy.copy(dataset)
    plain.transform = None
    if hasattr(plain, "transforms"):  # torchvision's pair of image and target transform
        plain.transforms = None
    return plain, transform


def match(dataset: Any, bank: Bank) -> tuple[np.ndarray, np.ndarray]:
    """The row in the bank and the label of every image of a data set, int64 (N,) both.

    Raises:
        ValueError: The bank was made from other images, labels or classes.
    """
    channels, height, width = bank.manifest.shape
    source, paths = Source(dataset, Preprocess(channels, (height, width))), bank.paths
    if paths:
        place = {path: row for row, path in enumerate(paths)}
        rows = np.array([place.get(path, -1) for path in source.paths or [""] * len(source)])
        if len(missing := (rows < 0).nonzero()[0]):
            name = source.paths[missing[0]] if source.paths else "image 0, which names no file"
            raise ValueError(
                f"the bank has no variants of {len(missing)} of {len(source)} images, such as "
                f"{name}: give the data set `samples`, a list of (path, label), or {_MAKE}"
            )
    elif len(source) != len(bank):
        raise ValueError(
            f"the bank was made from {len(bank)} images and the data set has {len(source)}: {_MAKE}"
        )
    else:
        rows = np.arange(len(bank))
    labels = _labels_of(dataset, bank, rows)
    for index in spread(len(rows), _COMPARED):
        if (source.digest(index, pixels=not paths) != bank.hashes[rows[index]]).any():
            name = source.paths[index] if source.paths else f"image {index}"
            raise ValueError(
                f"{name} is not the image that the bank was made from: the data are others, or in "
                f"another order. {_MAKE.capitalize()}"
            )
    changed = [index for index in spread(len(rows), _DECODED) if not source.as_in_file(index)]
    if changed:
        warnings.warn(
            f"the data set changes {source.paths[changed[0]]} after reading it. A bank that nfaug "
            "bank made of the files lacks this change: pass it as transform= instead",
            stacklevel=3,
        )
    return rows, labels


def _labels_of(dataset: Any, bank: Bank, rows: np.ndarray) -> np.ndarray:
    """The bank's labels as labels of the data set, whose classes may have another order."""
    labels, classes = np.asarray(bank.labels)[rows], bank.manifest.classes
    if classes and (names := dataset_classes(dataset)):
        place = {name: label for label, name in enumerate(names)}
        labels = np.array([place.get(name, -1) for name in classes])[labels]
    found = stored_labels(dataset)
    compared = np.arange(len(rows))
    if found is None:  # some of the images, and one of each class
        compared = np.union1d(spread(len(rows), _COMPARED), np.unique(labels, return_index=True)[1])
        found = np.array([int(part(dataset[int(index)], "label")) for index in compared])
    for number in (found != labels[compared]).nonzero()[0][:1]:
        index = compared[number]
        label = int(bank.labels[rows[index]])
        raise ValueError(
            f"the bank was made from other data, or from data in another order: image {index} has "
            f"label {found[number]}, and {classes[label] if classes else label!r} in the bank"
        )
    return labels
