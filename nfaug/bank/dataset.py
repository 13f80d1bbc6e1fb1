"""A data set that swaps images for variants from a bank."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..augment.switch import Switch
from ..data.checks import check_number
from ..data.classes import dataset_classes
from .format import Bank, labels_of, labels_sha256, probe_indices, thumbnails, to_uint8

__all__ = ["BankDataset"]

_KNOWN = 0.5  # share of probes that must be recognised; other data recognise one in 64


class BankDataset(Dataset[tuple[Any, int]]):
    """(image, label) of a data set, the image swapped with probability p for one of its variants.

    Images come out as PIL images, before `transform`, so that any pipeline can follow. `transform`
    can be set later, as timm's `create_loader` does; a data set that has one gives it up to this
    one (the data set itself is not changed). Nothing is decoded for an image that is swapped.

    Args:
        dataset: the data that the bank was made from: the same images in the same order.
        bank: the bank or its directory.
        p: probability of a swap; setting it takes effect at once, in a loader's workers too. An
            image without a variant that differs from it is never swapped.
        transform: applied to the image, swapped or not.

    Raises:
        ValueError: the bank was made from other data, another order or other classes.
    """

    def __init__(
        self,
        dataset: Any,
        bank: Bank | str | Path,
        p: float = 0.5,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.bank = bank if isinstance(bank, Bank) else Bank(bank)
        if getattr(dataset, "target_transform", None) is not None:
            raise ValueError(
                "the data set has a target_transform, which variants would not get: apply it to "
                "the labels of the batches"
            )
        own = getattr(dataset, "transform", None)
        if own is not None:
            if transform is not None:
                raise ValueError("the data set has a transform already: pass it to one of the two")
            dataset, transform = _without_transform(dataset), own
        self.dataset = dataset
        self.transform = transform
        self._p = Switch(check_number("p", p, 0, 1))
        _refuse_other_data(dataset, self.bank)

    @property
    def p(self) -> float:
        """Probability of a swap."""
        return float(self._p)

    @p.setter
    def p(self, value: float) -> None:
        self._p.set(check_number("p", value, 0, 1))

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        bank, index = self.bank, range(len(self.bank))[index]
        coin, which = torch.rand(2, device="cpu").tolist()
        if coin < self.p:
            choices = bank.applied[index].nonzero()[0]
            if len(choices):
                pixels = bank.variants[index, choices[int(which * len(choices))]]
                return self._finish(pixels, int(bank.labels[index]))
        image, label = self.dataset[index][:2]
        if isinstance(image, torch.Tensor):
            image = to_uint8(image, bank.manifest.shape[0]).permute(1, 2, 0).numpy()
        return self._finish(image, int(label))

    def _finish(self, image: Any, label: int) -> tuple[Any, int]:
        if isinstance(image, np.ndarray):
            image = _to_pil(image)
        return (image if self.transform is None else self.transform(image)), label

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __repr__(self) -> str:
        return f"BankDataset({self.dataset!r}, {self.bank!r}, p={self.p:g})"


def _to_pil(pixels: np.ndarray) -> Any:
    """A PIL image of uint8 (H, W, C); the array itself where PIL has no such images."""
    if pixels.shape[-1] not in (1, 3):
        return np.array(pixels)
    return Image.fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    )


def _without_transform(dataset: Any) -> Any:
    plain = copy.copy(dataset)
    plain.transform = None
    if hasattr(plain, "transforms"):  # torchvision's pair of image and target transform
        plain.transforms = None
    return plain


def _refuse_other_data(dataset: Any, bank: Bank) -> None:
    made = bank.manifest
    if len(dataset) != made.images:
        raise ValueError(
            f"the bank was made from {made.images} images, the data set has {len(dataset)}: make a "
            "bank from these data (nfaug bank)"
        )
    names = dataset_classes(dataset)
    if names and made.classes and tuple(names) != made.classes:
        pairs = zip(names, made.classes, strict=False)
        label = next((i for i, (one, two) in enumerate(pairs) if one != two), None)
        shown = (
            "" if label is None else f": {label} is {names[label]!r}, not {made.classes[label]!r}"
        )
        raise ValueError(
            f"the data set has {len(names)} classes, the bank is of {len(made.classes)} others or "
            f"in another order{shown}"
        )
    labels = labels_of(dataset)
    if labels is not None and labels_sha256(labels) != made.labels_sha256:
        first = int((labels != bank.labels).nonzero()[0][0])
        raise ValueError(
            "the bank was made from other data, or in another order: the label of image "
            f"{first} is {labels[first]}, in the bank {bank.labels[first]}"
        )
    images = []
    for i in probe_indices(made.images):
        image, label = dataset[i][:2]
        if int(label) != bank.labels[i]:
            raise ValueError(
                "the bank was made from other data, or in another order: the label of image "
                f"{i} is {label}, in the bank {bank.labels[i]}"
            )
        images.append(to_uint8(image, made.shape[0]))
    if (share := _recognised(thumbnails(images), bank.probes)) < _KNOWN:
        raise ValueError(
            "the bank was made from other images, or in another order: of those compared "
            f"{100 * share:.0f}% look like the ones that it was made from. nfaug and timm take "
            "2.png before 10.png, torchvision's ImageFolder does not"
        )


def _recognised(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of images that resemble their own thumbnail most (ties count).

    Compared with all, not with a threshold: the source may have been cropped or resized otherwise.
    """
    ours, theirs = (x.reshape(len(x), -1).astype(np.float32) for x in (found, expected))
    distances = np.square(ours[:, None] - theirs[None]).mean(2)
    own = distances.diagonal()
    if len(own) < 8:  # too few to tell by comparison
        return float((own < 20.0**2).mean())
    return float((own <= distances.min(1) + 1e-3).mean())
