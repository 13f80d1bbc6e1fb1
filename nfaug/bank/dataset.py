"""BankDataset: a data set that replaces images by variants from a bank."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..augment.counters import SharedValue
from ..augment.pixels import to_pil
from ..augment.settings import check_number
from ..data.classes import dataset_classes, stored_labels
from ..data.decode import upright
from .format import labels_sha256, thumbnails, to_uint8
from .reader import Bank
from .residual import BoxFunction, low_resolution

__all__ = ["BankDataset", "check_same_data"]

_RECOGNIZED = 0.5  # share of probes that must be recognized; by chance it is 1 in 64


class BankDataset(Dataset[tuple[Any, int]]):
    """Items (image, label) of a data set, with the image replaced by a variant with probability p.

    Images are PIL images, to which `transform` is applied. It may be set later, as timm's
    `create_loader` does, and is taken over from the data set if that has one (the data set itself
    does not change). Other attributes are those of the data set.

    A bank of whole images replaces an image, which is then not decoded. A residual bank adds a
    change to it: to an image of any size, before `transform`. PIL images that still carry an EXIF
    orientation are turned upright, whether they change or not, because `nfaug bank` reads files so.

    With `candidates` above 1, an item has that many images, (candidates, C, H, W): different
    variants, each with its own draw of `transform`, or the image itself, transformed once and
    repeated. `nfaug.hardest` takes one of them for each image.

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
        dataset: The data that the bank was made from: the same images in the same order.
        bank: The bank or its directory.
        p: Probability of a replacement. A change also takes effect in running data-loader workers.
            Images without a variant that differs from them are never replaced.
        transform: Applied to every image.
        box: For a residual bank, returns which part of the image the flow saw, (left, top, right,
            bottom) in pixels, from an index and the (height, width) of the image. By default this
            is the centre (`centre_box`), which is right for whole images, images resized with
            their aspect ratio, and their whole centre square. It is wrong, without an error, for
            smaller crops, also at the centre, and for squeezed images: see `crop_box` in
            `nfaug.bank.residual`. After Resize(256) and CenterCrop(224), the box is
            `lambda index, size: (-16, -16, 240, 240)`.
        candidates: Number of variants in an item; the bank must hold as many.

    Warns:
        UserWarning: The images have at least twice as many pixels a side as the variants.

    Raises:
        ValueError: The bank was made from other data, another order or other classes, or it has
            fewer variants than `candidates`.
        TypeError: With several candidates, `transform` does not return tensors.
    """

    def __init__(
        self,
        dataset: Any,
        bank: Bank | str | Path,
        p: float = 0.5,
        transform: Callable[[Any], Any] | None = None,
        box: BoxFunction | None = None,
        candidates: int = 1,
    ) -> None:
        self.bank = bank if isinstance(bank, Bank) else Bank(bank)
        if not 1 <= candidates <= self.bank.manifest.variants:
            raise ValueError(
                f"candidates must lie between 1 and the bank's {self.bank.manifest.variants} "
                f"variants; got {candidates}"
            )
        self.candidates = candidates
        if getattr(dataset, "target_transform", None) is not None:
            raise ValueError(
                "the data set must not have a target_transform, which is not applied to variants: "
                "apply it to the labels of batches"
            )
        own = getattr(dataset, "transform", None)
        if own is not None:
            if transform is not None:
                raise ValueError("the data set has a transform: pass transform= to one of the two")
            dataset, transform = _without_transform(dataset), own
        self.dataset = dataset
        self.transform = transform
        self.box = box
        self._p = SharedValue(check_number("p", p, 0, 1))
        check_same_data(dataset, self.bank, box)

    @property
    def p(self) -> float:
        """Probability of a replacement."""
        return float(self._p)

    @p.setter
    def p(self, value: float) -> None:
        self._p.set(check_number("p", value, 0, 1))

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        bank, index = self.bank, range(len(self.bank))[index]
        replace, which = torch.rand(2, device="cpu").tolist()
        choices = bank.applied[index].nonzero()[0] if replace < self.p else ()
        numbers = _drawn(choices, which, self.candidates)
        if numbers and bank.residuals is None:
            variants = [bank.variant(index, number) for number in numbers]
            return self._item(variants), int(bank.labels[index])
        image, label = self.dataset[index][:2]
        if isinstance(image, Image.Image):
            image = upright(image)  # as nfaug reads files; most data sets do not turn them
        images = [image]
        if numbers:
            pixels = _pixels(image, bank.manifest.shape[0])
            box = None if self.box is None else self.box(index, pixels.shape[:2])
            images = [bank.variant(index, number, pixels, box) for number in numbers]
        elif isinstance(image, torch.Tensor):
            images = [_pixels(image, bank.manifest.shape[0])]
        return self._item(images), int(label)

    def _item(self, images: list[Any]) -> Any:
        """The transformed image, or a stack of all candidates."""
        found = [self._transformed(image) for image in images]
        if self.candidates == 1:
            return found[0]
        if not isinstance(found[0], torch.Tensor):
            raise TypeError(
                f"candidates={self.candidates} needs a transform that returns tensors; got "
                f"{type(found[0]).__name__}"
            )
        return torch.stack(found * (self.candidates // len(found)))

    def _transformed(self, image: Any) -> Any:
        if isinstance(image, np.ndarray):
            image = to_pil(image)
        return image if self.transform is None else self.transform(image)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __repr__(self) -> str:
        return f"BankDataset({self.dataset!r}, {self.bank!r}, p={self.p:g})"


def _drawn(choices: Sequence[int] | np.ndarray, which: float, candidates: int) -> list[int]:
    """`candidates` of the choices, different ones if there are enough; none if there is none.

    A single one is choice number floor(which * n).
    """
    if not len(choices):
        return []
    if candidates == 1:
        return [int(choices[int(which * len(choices))])]
    order = torch.randperm(len(choices), device="cpu").tolist()
    return [int(choices[order[i % len(order)]]) for i in range(candidates)]


def _pixels(image: Any, channels: int) -> np.ndarray:
    """A PIL image or uint8 tensor as uint8 (H, W, C), to be read only."""
    if getattr(image, "mode", None) == {1: "L", 3: "RGB"}.get(channels, ""):
        pixels = np.asarray(image)  # without the second copy that makes it writable
        return pixels if pixels.ndim == 3 else pixels[..., None]
    return to_uint8(image, channels).permute(1, 2, 0).numpy()


def _without_transform(dataset: Any) -> Any:
    plain = copy.copy(dataset)
    plain.transform = None
    if hasattr(plain, "transforms"):  # torchvision's pair of image and target transform
        plain.transforms = None
    return plain


def check_same_data(dataset: Any, bank: Bank, box: BoxFunction | None = None) -> None:
    """Check that a bank was made from these images, labels and classes, in this order.

    Raises:
        ValueError: It was not; the message says what differs.
    """
    made = bank.manifest
    if len(dataset) != made.images:
        raise ValueError(
            f"the bank was made from {made.images} images and the data set has {len(dataset)}: "
            "make a bank of this data set (nfaug bank)"
        )
    names = dataset_classes(dataset)
    if names and made.classes and tuple(names) != made.classes:
        pairs = zip(names, made.classes, strict=False)  # there may be more of one than of the other
        label = next((i for i, (one, two) in enumerate(pairs) if one != two), None)
        shown = (
            ""
            if label is None
            else f"; got {names[label]!r} for {made.classes[label]!r}, label {label}"
        )
        raise ValueError(
            f"the {len(names)} classes of the data set must be the {len(made.classes)} classes of "
            f"the bank in the same order{shown}"
        )
    labels = stored_labels(dataset)
    if labels is not None and labels_sha256(labels) != made.labels_sha256:
        first = int((labels != bank.labels).nonzero()[0][0])
        _check_label(first, labels[first], bank)
    images, sides = [], []
    for i in bank.probe_rows:
        image, label = dataset[i][:2]
        _check_label(i, label, bank)
        image = to_uint8(image, made.shape[0])
        sides.append(min(image.shape[1:]))
        if made.residual:
            size = (image.shape[1], image.shape[2])
            image = low_resolution(image, made.shape, None if box is None else box(i, size))
        images.append(image)
    if (share := _recognized(thumbnails(images), bank.probes)) < _RECOGNIZED:
        raise ValueError(
            "the bank was made from other images, or from images in another order: only "
            f"{100 * share:.0f}% of the compared images match. nfaug and timm sort 2.png before "
            "10.png, torchvision's ImageFolder sorts it after"
        )
    if not made.residual and min(sides) >= 2 * min(made.shape[1:]):
        height, width = made.shape[1:]
        warnings.warn(
            f"the bank's variants have {height} x {width} pixels, and the compared images "
            f"{min(sides)} or more on the shorter side: variants lack their detail. Make the bank "
            "with --image-size N, for training at N pixels, or with --residual",
            stacklevel=3,
        )


def _check_label(index: int, label: Any, bank: Bank) -> None:
    if int(label) != bank.labels[index]:
        raise ValueError(
            "the bank was made from other data, or from data in another order: image "
            f"{index} has label {label}, and {bank.labels[index]} in the bank"
        )


def _recognized(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of images that are nearest to their own thumbnail (ties count).

    A threshold alone would not do: the source may be cropped or resized differently.
    """
    ours, theirs = (x.reshape(len(x), -1).astype(np.float32) for x in (found, expected))
    distances = np.square(ours[:, None] - theirs[None]).mean(2)
    own = distances.diagonal()
    if len(own) < 8:  # too few to compare with each other
        return float((own < 20.0**2).mean())
    return float((own <= distances.min(1) + 1e-3).mean())
