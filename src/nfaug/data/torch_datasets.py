"""Any torch dataset of (image, label)."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from .classes import (
    dataset_classes,
    item_sources,
    numbered,
    own_attribute,
    stored_labels,
    subset_rows,
)
from .image_files import ImageDecodeError, upright
from .images import Images, run_over
from .source import Source, pixels_sha256, read_part

# Steps that may follow `Normalize`: they leave the scale of values as it is.
_AFTER_NORMALIZE = ("RandomErasing", "ToPureTensor")
_ROUNDING = 1e-3  # of a float in [0, 1] that was normalized, perhaps in half precision


def check_dataset(dataset: Any) -> None:
    """Raise ValueError for a loader, a stream, or a mapping of splits."""
    if isinstance(getattr(dataset, "loader", dataset), DataLoader):  # timm's wraps torch's
        raise ValueError(
            f"pass a dataset, not a {type(dataset).__name__}: loader.dataset, or for the images "
            "that a sampler draws torch.utils.data.Subset(loader.dataset, indices)"
        )
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if isinstance(dataset, IterableDataset | Mapping) or not indexed:
        raise ValueError(
            f"a dataset must have a length and items by index; got {type(dataset).__name__}. "
            "Pass one split of a mapping, such as data['train'], and collect a stream into a list"
        )


class DatasetSource(Source):
    """The items of a torch dataset.

    Args:
        dataset: The dataset.
        classes: Class names; None for those of the dataset, or else the numbers of the labels.
        targets: The labels, int64 (N,), if they are known.
        moments: Mean and standard deviation that floating-point images are normalized by.
        progress: Whether to show a bar while labels are read.
    """

    def __init__(
        self,
        dataset: Any,
        classes: Sequence[str] | None = None,
        targets: Tensor | None = None,
        moments: tuple[Any, Any] | None = None,
        progress: bool = True,
    ) -> None:
        self.dataset: Any = dataset
        self.moments: Tensor | None = None  # mean and std, (2, C or 1, 1, 1)
        if moments is not None:
            pair = [torch.as_tensor(values, dtype=torch.float32).flatten() for values in moments]
            self.moments = torch.stack(torch.broadcast_tensors(*pair))[:, :, None, None]
        self.where: str = f"the dataset ({type(dataset).__name__})"
        self.images: Images | None = images_of(dataset)
        self.files: list[str] = []
        paths: list[str] | None = None
        if self.images is not None:
            paths = self.images.paths
        elif self.shows_files():
            self.files, paths = files_of(dataset)
        changed = False  # whether labels are others than those that the dataset stores
        if targets is None:
            labels: Any = stored_labels(dataset)
            changed = labels is not None and not self._agrees(labels)
            if labels is None or changed:
                read = run_over(
                    self._label,
                    range(len(dataset)),
                    "reading labels",
                    threads=False,
                    progress=progress,
                )
                labels = list(read)
            targets = torch.as_tensor(labels, dtype=torch.int64)
        names = classes
        if not names and not changed:
            names = dataset_classes(dataset)
        names = names or numbered(targets)
        super().__init__(
            where=self.where, classes=list(names), targets=targets, paths=paths or None
        )

    def read(self, index: int) -> Image.Image | Tensor:
        image, label = self.item(index)
        check_label(label, int(self.targets[index]), self.name(index))
        return self.image_of(image, index)

    def file(self, index: int) -> bytes | None:
        if self.images is not None:
            return self.images.source.file(int(self.images.rows[index]))
        if not self.files:
            return None
        return read_part(Path(self.files[index]), self.files[index])

    def digest(self, index: int) -> bytes:
        if self.images is not None:  # whose digests are those of the images as they are stored
            return self.images.digest(index)
        content = self.file(index)
        if content is None:
            image, _ = self.item(index)  # whatever its label
            return pixels_sha256(self.image_of(image, index))
        return hashlib.sha256(content).digest()

    def read_with_digest(self, index: int) -> tuple[Image.Image | Tensor, bytes]:
        if self.images is not None:
            return self.read(index), self.digest(index)
        return super().read_with_digest(index)

    def shows_files(self) -> bool:
        """Whether items that come from files are the images in them, as far as this is known."""
        sources = item_sources(self.dataset)
        return all(own_attribute(source, "transform") in (None, as_it_is) for source in sources)

    def item(self, index: int) -> tuple[Any, Any]:
        """The image and the label of item number `index`, as the dataset gives them."""
        name = self.name(index)
        try:
            item = self.dataset[index]
        except OSError as error:
            raise ImageDecodeError(f"{name} cannot be read ({error})") from error
        if isinstance(item, Mapping) and {"image", "label"} <= item.keys():
            return item["image"], item["label"]
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        raise ValueError(
            f"{name} must be (image, label), or have the keys 'image' and 'label'; got a "
            f"{type(item).__name__}. Pass arrays as TensorDataset(images, labels)"
        )

    def image_of(self, image: Any, index: int) -> Image.Image | Tensor:
        """The image of item number `index`, as `read` returns it."""
        if isinstance(image, Image.Image):
            return upright(image)
        return _levels(image, self.name(index), self.moments)

    def _agrees(self, labels: np.ndarray) -> bool:
        """Whether three items have the stored labels, which a wrapper may have changed."""
        count = len(self.dataset)
        if count == 0:
            return True
        probes = {0, count // 2, count - 1}
        return all(self._label(index) == labels[index] for index in probes)

    def _label(self, index: int) -> int:
        _, label = self.item(index)
        return as_label(label, self.name(index))


def images_of(dataset: Any) -> Images | None:
    """The images of an `Images` or of a torch `Subset` of one; None for other datasets."""
    if isinstance(dataset, Images):
        return dataset
    if type(dataset) is Subset:  # a subclass may change items
        images = images_of(dataset.dataset)
        if images is not None:
            return images.subset(torch.as_tensor(subset_rows(dataset)))
    return None


def split_transform(dataset: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """A dataset without its transform, and the transform; also that of a Subset's dataset.

    That of a dataset inside a wrapper stays: it is part of the wrapper's items.
    """
    if type(dataset) is Subset:  # a subclass may change items
        inner, transform = split_transform(dataset.dataset)
        if transform is None:
            return dataset, None
        return Subset(inner, dataset.indices), transform
    transform = getattr(dataset, "__dict__", {}).get("transform")
    if transform is None:
        return dataset, None
    plain = copy.copy(dataset)
    plain.transform = as_it_is  # a dataset may call it without asking whether there is one
    pair = getattr(plain, "transforms", None)
    if hasattr(pair, "target_transform"):  # torchvision's pair: that of labels stays
        plain.transforms = copy.copy(pair)
        plain.transforms.transform = None
    elif pair is not None:
        plain.transforms = None
    return plain, transform


def as_it_is(*given: Any, **named: Any) -> Any:
    """The image that a dataset passes to its transform; by name for albumentations."""
    return named or given[0]


def files_of(dataset: Any) -> tuple[list[str], list[str]]:
    """The file of each image of torchvision's ImageFolder or timm's ImageDataset, and its path.

    Paths begin below the innermost folder that holds all files, and have slashes. Both lists are
    empty for other datasets, and for wrappers but `Subset`, which may change images.
    """
    if type(dataset) is Subset:
        files, paths = files_of(dataset.dataset)
        if not files:
            return [], []
        rows = subset_rows(dataset)
        return [files[row] for row in rows], [paths[row] for row in rows]
    for holder in (dataset, own_attribute(dataset, "reader")):
        samples = own_attribute(holder, "samples")
        match samples:
            case [(str(first), _), *_] if len(samples) == len(dataset) and os.path.isfile(first):
                files = [file for file, _ in samples]
                plain = [os.path.normpath(file) for file in files]  # ./a//b as a/b
                shared = os.path.commonpath({os.path.dirname(file) for file in plain})
                below = [file[len(shared) :].replace(os.sep, "/") for file in plain]
                return files, [path.lstrip("/") for path in below]
    return [], []


def as_label(value: Any, name: str) -> int:
    """The label of an item as an int; `name` is for the message.

    Raises:
        ValueError: It is no whole number.
    """
    label = np.asarray(value)
    if label.ndim or label.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers 0..K-1; {name} has {value!r:.40}")
    return int(label)


def check_label(value: Any, expected: int, name: str) -> None:
    """Raise ValueError unless an item has the label that is stored, or that a bank has."""
    label = as_label(value, name)
    if label != expected:
        raise ValueError(
            f"{name} has the label {label} when it is read, and {expected} is stored for it "
            "(`targets`), or was when the bank was made. Correct `targets`, make the bank anew, or "
            "remove an unreadable file in whose place the dataset gives another image"
        )


def part(item: Any, key: str) -> Any:
    """The "image" or the "label" of an item, which is a mapping or starts with the two."""
    if isinstance(item, Mapping):
        return item[key]
    return item[("image", "label").index(key)]


def normalization_of(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Mean and std by which the images of a dataset are normalized, or None.

    They are those of a `Normalize` of torchvision or timm at the end of the dataset's transform,
    and the only one in it. Random erasing may follow. A wrapper's images are its own, so the
    transform of a dataset inside does not count, except in torch's `Subset` and `ConcatDataset`,
    whose parts must agree.
    """
    found: list[tuple[list[float], list[float]] | None] = []
    for source in item_sources(dataset):
        transforms = own_attribute(source, "transforms")
        if not isinstance(transforms, tuple | list):  # timm's, one for each of several sizes
            transforms = [own_attribute(source, "transform")]
        found += map(_normalization_at_end, transforms)
    return found[0] if all(pair == found[0] for pair in found) else None


def _normalization_at_end(transform: Any) -> tuple[list[float], list[float]] | None:
    """Mean and std of the only `Normalize` in a transform, if it is the last step."""
    steps = [step for step in _steps(transform) if not _is_step(step, *_AFTER_NORMALIZE)]
    normalizations = [step for step in steps if _is_step(step, "Normalize")]
    if len(normalizations) != 1 or steps[-1] is not normalizations[0]:
        return None
    mean, std = normalizations[0].mean, normalizations[0].std
    return np.ravel(mean).tolist(), np.ravel(std).tolist()


def _steps(transform: Any) -> list[Any]:
    """The steps of a transform that all run, in order."""
    if _is_step(transform, "Compose"):
        return [step for part in transform.transforms for step in _steps(part)]
    if type(transform) is torch.nn.Sequential:
        return [step for part in transform for step in _steps(part)]
    return [transform]


def _is_step(step: Any, *names: str) -> bool:
    """Whether a step is of a class of this name in torchvision or timm, which stay unimported."""
    library = type(step).__module__.partition(".")[0]
    return library in ("torchvision", "timm") and type(step).__name__ in names


def _levels(image: Any, name: str, moments: Tensor | None) -> Tensor:
    """A tensor or an array as uint8 (C, H, W); `moments` are those that it is normalized by."""
    if not isinstance(image, Tensor | np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"{name} must have a PIL image, a tensor or an array; got {kind}")
    image = torch.as_tensor(image)
    shape = tuple(image.shape)
    swapped = len(shape) == 3 and shape[2] <= 4 < min(shape[:2])
    if len(shape) not in (2, 3) or 0 in shape or swapped:
        raise ValueError(f"{name} must be (H, W) or (C, H, W); got {shape}; permute (H, W, C)")
    if image.is_floating_point():
        if moments is not None:
            mean, std = moments
            image = image.detach().cpu().float().reshape(-1, *shape[-2:]) * std + mean
            nearest = image.clamp(0, 1)
            if (image - nearest).abs().max() < _ROUNDING:
                image = nearest
        if not ((image >= 0) & (image <= 1)).all():  # NaN fails too
            raise ValueError(
                f"{name} is floating point and must lie in [0, 1]; got values from "
                f"{image.min():g} to {image.max():g}. Remove the normalization, or pass its mean= "
                "and std="
            )
        image = (image.detach().float() * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8, or floating point in [0, 1]; got {image.dtype}")
    return image.cpu().reshape(-1, *shape[-2:])
