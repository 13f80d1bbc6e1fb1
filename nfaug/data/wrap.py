"""Any torch data set of (image, label) as a data set of 8-bit images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from tqdm import tqdm

from .classes import class_names
from .images import LabelledImages
from .readers import ImageDecodeError, Reader, assemble

__all__ = ["DatasetReader", "wrap_dataset"]

PROBES = 64  # images that stand for all of them in the fingerprint


def wrap_dataset(
    dataset: Dataset[Any] | Sequence[tuple[Any, int]],
    *,
    classes: Sequence[str] | None = None,
    complete: bool = True,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> LabelledImages:
    """Give any data set, or list, of (image, label) the form of `open_dataset`'s.

    An image may be a PIL image, a uint8 tensor or array of shape (H, W) or (C, H, W) with any C, or
    a floating-point one of that shape in [0, 1], which is rounded to 8 bits. Labels come from
    `.targets`, `.labels` or a `TensorDataset`, also below `Subset` and `ConcatDataset`, if three
    items confirm them; else from one pass over the items.

    Args:
        dataset: The data set; its random transforms, if any, stay random. A `LabelledImages` is
            returned as it is.
        classes: Class names; None for its `.classes`, or else the labels' numbers.
        complete: Whether every class must have an image; not so for a held-out set.
        image_size: As for `open_dataset`.
        channels: Channels of the result; None for those of the images.

    Raises:
        ValueError: If the items are something else, labels are not 0..K-1, or a class is empty.
    """
    if isinstance(dataset, LabelledImages):
        return dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a data set must have a length and items by number, got {type(dataset).__name__}; "
            "collect a stream into a list or a TensorDataset first"
        )
    reader = DatasetReader(dataset, classes, complete)
    return assemble(reader, image_size=image_size, channels=channels)


class DatasetReader(Reader):
    """The items of a torch data set."""

    def __init__(
        self, dataset: Any, classes: Sequence[str] | None = None, complete: bool = True
    ) -> None:
        self.dataset, self.complete = dataset, complete
        self.kind = type(dataset).__name__
        self.where = f"the data set ({self.kind})"
        targets = _stored_targets(dataset)
        if targets is None or not self._confirms(targets):
            bar = tqdm(range(len(dataset)), "reading labels", unit="image", disable=None, delay=1)
            targets = torch.tensor([self._label(index) for index in bar], dtype=torch.int64)
        self.targets = targets
        names = _class_names(dataset) if classes is None else list(classes)
        if names is None:
            names = [str(label) for label in range(int(targets.max()) + 1 if len(targets) else 0)]
        self.classes = names

    def name(self, index: int) -> str:
        return f"item {index} of the {self.kind}"

    def read(self, index: int) -> Image.Image | Tensor:
        try:
            image = self._item(index)[0]
        except OSError as error:
            raise ImageDecodeError(f"{self.name(index)} cannot be read ({error})") from error
        if isinstance(image, Image.Image):
            return image
        return _to_uint8(image, self.name(index))

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        places = torch.linspace(0, len(indices) - 1, min(PROBES, len(indices))).long()
        for place in places.tolist():
            image = self.read(indices[place])
            yield image.tobytes() if isinstance(image, Image.Image) else image.numpy().tobytes()

    def _item(self, index: int) -> tuple[Any, Any]:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            length = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise ValueError(
                f"{self.name(index)} must be (image, label), got {type(item).__name__}{length}"
            )
        return item[0], item[1]

    def _label(self, index: int) -> int:
        value = self._item(index)[1]
        array = np.asarray(value)
        if array.ndim or array.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be integers 0..K-1, {self.name(index)} has the label {value!r}"
            )
        return int(array)

    def _confirms(self, targets: Tensor) -> bool:
        """Whether items have the stored labels: a wrapper may have changed them."""
        count = len(targets)
        return all(self._label(i) == int(targets[i]) for i in {0, count // 2, count - 1} if count)


def _to_uint8(image: Any, name: str) -> Tensor:
    if isinstance(image, np.ndarray):
        image = torch.tensor(image)
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name} must have a PIL image, a tensor or an array, got {type(image).__name__}"
        )
    shape = tuple(image.shape)
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or 0 in shape:
        raise ValueError(f"{name} must have shape (H, W) or (C, H, W), got {shape}")
    if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) > 4:
        raise ValueError(
            f"{name} has shape {shape}, which looks like (H, W, C); permute it to (C, H, W)"
        )
    if image.is_floating_point():
        image = image.detach().float()
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(
                f"{name} is floating point and must lie in [0, 1], got values from {low:g} to "
                f"{high:g}; leave out normalisation by mean and std"
            )
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8, or floating point in [0, 1], got {image.dtype}")
    return image.cpu()


def _stored_targets(dataset: Any) -> Tensor | None:
    """Labels that a data set keeps at hand, or None."""
    if isinstance(dataset, LabelledImages):
        return dataset.targets
    if isinstance(dataset, Subset):
        inner = _stored_targets(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_stored_targets(part) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        candidates: list[Any] = list(dataset.tensors[1:2])
    elif getattr(dataset, "target_transform", None) is not None:
        return None
    else:
        candidates = [getattr(dataset, name, None) for name in ("targets", "labels")]
    for candidate in candidates:
        try:
            targets = torch.as_tensor(candidate)
        except (TypeError, ValueError, RuntimeError):
            continue
        whole = targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        if whole and targets.shape == (len(dataset),):
            return targets.to("cpu", torch.int64)
    return None


def _class_names(dataset: Any) -> list[str] | None:
    """The names in `.classes`, each made unique, or None."""
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return _class_names(dataset.datasets[0])
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, tuple | list):
        return None
    return class_names(classes)
