"""BankDataset: a dataset that replaces images by variants from a bank."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..augment.counters import SharedMarks, SharedValue
from ..augment.pixels import to_pil
from ..data.classes import dataset_classes, stored_labels
from ..data.image_files import ImageDecodeError, decode_image, upright
from ..data.images import spread
from ..data.resize import size_of
from ..data.source import read_part
from ..data.torch_datasets import DatasetSource, as_label, check_label, part, split_transform
from ..data.view import View
from ..io.numbers import check_number
from ..io.text import printable
from .reader import Bank, DamagedVariantError, check_variants

_PEEKS = 32  # images that tell at once whether the data are others
_MOST_CHANGED = 0.01  # of the images, whose variants are not theirs any more
_PROBED = 3  # items whose labels are compared with those that the dataset stores
_DECODED = 4  # images whose pixels are compared with their files
_DECODER_LEVELS = 4  # mean gray levels; two decoders of a JPEG file differ by less
_IS_ANOTHER = "is not the image that the bank was made from"
_MAKE = "make a bank of this dataset (nfaug bank, or nfaug.bank.make_bank)"


class BankDataset(Dataset[tuple[Any, int]]):
    """Items (image, label) of a dataset, with the image replaced by a variant with probability p.

    Images are PIL images, to which `transform` is applied. It may be set later, as timm's
    `create_loader` does, and is taken over from the dataset if that has one (the dataset itself
    does not change). Other attributes are those of the dataset.

    Images are matched with the bank by the paths of their files, in any order, and by order if they
    are not files. Stored labels are compared on opening. A warning says if the dataset changes
    images of files otherwise than by `transform`. Data of which most images are others are refused.

    Before a variant is served, the hash of its image, read anew, and the checksum of the variant
    are compared with those that the bank has. If one differs, the image is served as it is, and a
    warning names the first. `changed` counts such images; more than 1% of all are an error.

    The label of an item is the dataset's own. A dataset that stores its labels, such as those of
    torchvision and timm, has all of them compared with the bank's on opening. Of another, each item
    is read, also where a variant replaces its image, and its label is compared then: an attribute
    `targets` with all labels saves that.

    An image that is replaced is read, and not decoded if it is a file. The others, if they are PIL
    images, are turned upright as their EXIF orientation says, because `nfaug bank` reads files so.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import nfaug.bank
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> checkpoint = nfaug.fit("builtin:pixels", digits, progress=False)
        >>> bank = nfaug.bank.make_bank(checkpoint, digits, tempfile.mkdtemp(), progress=False)
        >>> image, label = nfaug.bank.BankDataset(digits, bank, p=0.5)[3]
        >>> image.size, label == digits[3][1]
        ((8, 8), True)

    Args:
        dataset: The data that the bank was made from, or some of its files.
        bank: The bank or its directory.
        p: Probability of a replacement. A change also takes effect in running data-loader workers.
            Images without a variant that differs from them are never replaced.
        transform: Applied to every image.

    Raises:
        ValueError: The bank was made from other data, classes or labels, or has no variant; or,
            when an item is read, its label is not the one that the dataset stores, or more than 1%
            of the images are not those that the bank was made from.
    """

    def __init__(
        self,
        dataset: Any,
        bank: Bank | str | Path,
        p: float = 0.5,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.bank: Bank = bank if isinstance(bank, Bank) else Bank(bank)
        check_variants(self.bank)
        plain, dataset_transform = split_transform(dataset)
        if dataset_transform is not None and transform is not None:
            raise ValueError("the dataset has a transform: pass transform= to one of the two")
        self.dataset: Any = plain
        self.transform: Callable[[Any], Any] | None = transform
        if dataset_transform is not None:
            self.transform = dataset_transform
        self._p = SharedValue(check_number("p", p, 0, 1))
        stored = _trusted_labels(self.dataset)
        # Labels are compared below, and with each item that is read.
        no_labels = torch.zeros(len(plain), dtype=torch.int64)
        self._source = DatasetSource(plain, targets=no_labels)
        if not self._source.paths and len(plain):
            check_untransformed(part(plain[0], "image"))
        self._rows = match(self._source, self.bank)
        self._changed = SharedMarks(len(self._rows))
        self._warned = SharedValue(0.0)
        self._labels = _compared_labels(self.dataset, self.bank, self._rows, stored)
        self._stores_labels = stored is not None

    @property
    def p(self) -> float:
        """Probability of a replacement."""
        return float(self._p)

    @p.setter
    def p(self, value: float) -> None:
        self._p.set(check_number("p", value, 0, 1))

    @property
    def changed(self) -> int:
        """How many images were served in place of a variant that was not theirs any more."""
        return self._changed.count()

    @property
    def classes(self) -> list[str] | None:
        """Names of the dataset's classes in label order; None if it has none."""
        return dataset_classes(self.dataset)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        index = range(len(self))[index]
        row = int(self._rows[index])
        label = int(self._labels[index])
        variant = self._variant(index, row, self._draw_variant(row))
        item = None
        if variant is None or not self._stores_labels:
            item = self.dataset[index]
            check_label(part(item, "label"), label, f"image {index}")
        if variant is None:
            image = self._upright(part(item, "image"))
        else:
            image = to_pil(variant)
        if self.transform is not None:
            image = self.transform(image)
        return image, label

    def _draw_variant(self, row: int) -> int | None:
        """The number of the variant that replaces an image; None if the image stays."""
        replace, which = torch.rand(2, device="cpu").tolist()
        if replace >= self.p:
            return None
        numbers = self.bank.applied[row].nonzero()[0]
        if not len(numbers):
            return None
        return int(numbers[int(which * len(numbers))])

    def _variant(self, index: int, row: int, number: int | None) -> np.ndarray | None:
        """The variant of an image, if it is of this image; None if the image stays.

        Raises:
            ValueError: More than 1% of the images have changed.
        """
        if number is None:
            return None
        if not is_same(self._source, index, self.bank, row):
            self._say_changed(index, f"{_name(self._source, index)} {_IS_ANOTHER}")
            return None
        try:
            return self.bank.variant(row, number)
        except DamagedVariantError as error:
            self._say_changed(index, str(error))
            return None

    def _say_changed(self, index: int, reason: str) -> None:
        """Count an image that is served as it is, and warn of the first."""
        self._changed.set(index)
        count = self.changed
        if count > _MOST_CHANGED * len(self):
            raise ValueError(
                f"{reason}; so it is with {count} of {len(self)} images so far: the data are "
                f"others, or in another order, or the bank is damaged. {_MAKE.capitalize()}"
            )
        if not float(self._warned):
            self._warned.set(1.0)
            warnings.warn(f"{reason}: such images are served as they are", stacklevel=4)

    def _upright(self, image: Any) -> Any:
        """An image of the dataset, upright and in the form of the variants."""
        channels = self.bank.manifest.shape[0]
        if isinstance(image, Image.Image):
            other_form = image.mode != {1: "L", 3: "RGB"}[channels]
        else:
            other_form = isinstance(image, torch.Tensor)
        if other_form:
            return to_pil(to_uint8(image, channels).permute(1, 2, 0).numpy())
        if isinstance(image, Image.Image):
            return upright(image)  # most datasets do not turn it
        return image

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)


def match(source: DatasetSource, bank: Bank) -> np.ndarray:
    """The row in the bank of every image of a dataset, int64 (N,).

    Raises:
        ValueError: The bank was made from other files, of another number of images, or most of
            some images are others.
    """
    paths = bank.paths
    dataset_paths = source.paths or []
    count = len(source.targets)
    if paths:
        rows = _rows_of_paths(dataset_paths, paths, count)
    elif count == len(bank):
        rows = np.arange(len(bank))
    else:
        raise ValueError(
            f"the bank was made from {len(bank)} images and the dataset has {count}: {_MAKE}"
        )
    others = [i for i in spread(count, _PEEKS) if not is_same(source, i, bank, int(rows[i]))]
    if 2 * len(others) > min(count, _PEEKS):
        raise ValueError(
            f"{_name(source, others[0])} {_IS_ANOTHER}, nor are most others: the data are others, "
            f"or in another order. {_MAKE.capitalize()}"
        )
    changed = [index for index in spread(len(rows), _DECODED) if not _is_in_file(source, index)]
    if changed:
        warnings.warn(
            f"the dataset changes {dataset_paths[changed[0]]} after reading it. A bank that nfaug "
            "bank made of the files lacks this change: pass it as transform= instead",
            stacklevel=3,
        )
    return rows


def is_same(source: DatasetSource, index: int, bank: Bank, row: int) -> bool:
    """Whether an image of a dataset is the one that a row of a bank was made from."""
    return source.digest(index) == bank.hashes[row].tobytes()


def _is_in_file(source: DatasetSource, index: int) -> bool:
    """Whether an item, if it has a file, is the image in it."""
    if not source.files:
        return True
    file = source.files[index]
    try:
        in_file = decode_image(read_part(Path(file), file), file)
    except ImageDecodeError:  # an array, which the dataset's own loader reads
        return True
    image, _ = source.item(index)
    given = to_uint8(image, 3)
    if size_of(given) != size_of(in_file):
        return False
    difference = given.float() - to_uint8(in_file, 3).float()
    return float(difference.abs().mean()) < _DECODER_LEVELS


def _name(source: DatasetSource, index: int) -> str:
    return source.paths[index] if source.paths else f"image {index}"


def _rows_of_paths(dataset_paths: list[str], paths: list[str], count: int) -> np.ndarray:
    """The row in a bank of files of every image of a dataset, int64 (N,).

    `dataset_paths` are those of the dataset, `paths` those of the bank, and `count` is N.
    """
    row_of_path = {path: row for row, path in enumerate(paths)}
    rows = np.full(count, -1)
    if dataset_paths:
        rows = np.array([row_of_path.get(path, -1) for path in dataset_paths])
    missing = (rows < 0).nonzero()[0]
    if len(missing):
        name = dataset_paths[missing[0]] if dataset_paths else "image 0, which names no file"
        raise ValueError(
            f"the bank has no variants of {len(missing)} of {count} images, such as "
            f"{name}: pass the whole dataset, a torch.utils.data.Subset of it, or one with "
            f"`samples`, a list of (path, label); or {_MAKE}"
        )
    return rows


def _compared_labels(
    dataset: Any, bank: Bank, rows: np.ndarray, stored: np.ndarray | None
) -> np.ndarray:
    """The bank's labels in the numbers of the dataset, compared with all that it stores."""
    labels = np.asarray(bank.labels)[rows]
    classes = bank.manifest.classes
    names = dataset_classes(dataset)
    if classes and names:  # which may have another order
        label_of_name = {name: label for label, name in enumerate(names)}
        dataset_labels = np.array([label_of_name.get(name, -1) for name in classes])
        absent = dataset_labels[labels] < 0
        if absent.any():
            missing = printable(classes[int(labels[absent][0])], longest=100)
            raise ValueError(
                f"the bank has images of the class {missing!r}, which the dataset lacks: {_MAKE}"
            )
        labels = dataset_labels[labels]
    if stored is None:
        return labels
    different = (stored != labels).nonzero()[0]
    if len(different):
        index = int(different[0])
        bank_label = int(bank.labels[rows[index]])
        name = printable(classes[bank_label], longest=100) if classes else bank_label
        raise ValueError(
            f"the bank was made from other data, or from data in another order: image {index} has "
            f"label {stored[index]}, and {name!r} in the bank. {_MAKE.capitalize()}"
        )
    return labels


def _trusted_labels(dataset: Any) -> np.ndarray | None:
    """The labels that a dataset stores, int64 (N,), if some items agree with them."""
    stored = stored_labels(dataset)
    if stored is None:
        return None
    # A wrapper may have changed the labels that it finds stored.
    for index in spread(len(dataset), _PROBED):
        if as_label(part(dataset[index], "label"), f"image {index}") != stored[index]:
            return None
    return stored


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image, turned upright, or a uint8 tensor as contiguous uint8 (C, H, W)."""
    check_untransformed(image)
    if isinstance(image, Image.Image):
        image = upright(image)
    elif image.ndim == 2:
        image = image[None]
    return View(channels, size_of(image))(image, "an image of the bank")


def check_untransformed(image: Any) -> None:
    """Raise ValueError unless this is a PIL image or a uint8 tensor."""
    if isinstance(image, Image.Image):
        return
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3):
        return
    kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(
        "images of a bank must be untransformed PIL images or uint8 tensors (C, H, W); got "
        f"{kind}. Take the steps that change them out of the dataset, and pass them to "
        "BankDataset(dataset, bank, transform=steps)"
    )
