"""Images and labels of the samples that training loops pass around."""

from __future__ import annotations

import copy
import math
import numbers
import os
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.classes import composed, unique_names
from .pixels import check_dense

#: Integers, class names, or one-hot rows.
GivenLabels = Tensor | np.ndarray | Sequence[Any]
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_LONGEST = 4096  # numbers of a vector that may pass beside an image
# Words in the keys of vectors that hold positions, which would have to move with the image.
_POSITIONS = ("box", "keypoint", "landmark", "point", "polygon", "contour")
_TV_TENSORS = "torchvision.tv_tensors"
_EXPECTED = (
    "NFAugment takes batches of one tensor of images (B, C, H, W) and their labels. Beside them "
    "may be one number, text or short vector for each image; not masks, boxes, keypoints, videos "
    "or other images, which NFA does not transform. Call it after the loader, or as its collate_fn "
    "(nfaug.integrations.torchvision.NFACollate), take what it refuses out of the sample, name "
    "what is to stay as it is (NFAugment(..., unchanged=['KEY'])), or call it on the two alone: "
    "nfa(images, labels)"
)


class _Part(NamedTuple):
    """What a sample holds, and where.

    Attributes:
        keys: The keys and positions that lead to it.
        lengths: The lengths of the lists that it lies in. The sample itself counts for none.
        value: A tensor, a number, a text or anything else that is no container.
    """

    keys: tuple[Any, ...]
    lengths: tuple[int, ...]
    value: Any

    def texts(self) -> list[str]:
        """The keys that are text, not positions."""
        return [key for key in self.keys if isinstance(key, str)]

    def is_named(self, names: Collection[str | int]) -> bool:
        """Whether a key that leads to it, or its position in the sample, is one of the names."""
        return any(key in names for key in (*self.keys[:1], *self.texts()))

    def __str__(self) -> str:
        path = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in self.keys)
        kind = type(self.value)
        shape = f" {tuple(self.value.shape)}" if _is_array(self.value) else ""
        return f"{path or 'sample'}: {kind.__module__.partition('.')[0]}.{kind.__name__}{shape}"


def _parts(
    sample: Any, labels: Any = None, keys: tuple[Any, ...] = (), lengths: tuple[int, ...] = ()
) -> Iterator[_Part]:
    """The parts of a sample, of which the labels are one, also if they are a list."""
    if sample is not labels and isinstance(sample, Mapping):
        for key, value in sample.items():
            yield from _parts(value, labels, (*keys, key), lengths)
    elif sample is not labels and isinstance(sample, (tuple, list)):
        if keys:
            lengths = (*lengths, len(sample))
        for number, value in enumerate(sample):
            yield from _parts(value, labels, (*keys, number), lengths)
    else:
        yield _Part(keys, lengths, sample)


def check_names(names: Collection[str | int]) -> frozenset[str | int]:
    """Keys and positions of a sample, as a set; ValueError if they are anything else."""
    listed = isinstance(names, Collection) and not isinstance(names, str | bytes | Mapping)
    if not listed or not all(isinstance(name, (str, int)) for name in names):
        raise ValueError(
            f"unchanged must be a list of keys or positions, such as ['boxes']; got {names!r:.80}"
        )
    return frozenset(names)


def images_and_labels(
    sample: Any,
    labels_getter: Callable[[Any], Any] | None = None,
    unchanged: Collection[str | int] = (),
) -> tuple[Tensor, Any]:
    """The batch of images, a sample's only four-dimensional tensor, and the labels.

    `labels_getter` finds the labels in the sample; None looks for them in the usual places. What
    `unchanged` names by a key or a position may be anything.

    Raises:
        ValueError: One is missing, or beside them is something else than a number, a text or a
            short vector for each image: see `_passes`.
    """
    parts = [part for part in _parts(sample) if not part.is_named(unchanged)]
    found = [part.value for part in parts if _is_images(part.value)]
    if len(found) != 1:
        raise _refused(parts)
    images = found[0]
    labels = _find_labels(sample) if labels_getter is None else labels_getter(sample)
    for part in _parts(sample, labels):
        known = part.value is images or (part.value is labels and not part.lengths)
        if not (known or part.is_named(unchanged) or _passes(part, images)):
            raise _refused([part])
    return images, labels


def _is_array(value: Any) -> bool:
    """Whether this is an array, or a tensor that is no list of tensors."""
    return isinstance(value, np.ndarray) or (isinstance(value, Tensor) and not value.is_nested)


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and _is_array(value) and value.ndim == 4 and _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Whether this is no mask, box or video of torchvision's."""
    kind = type(value)
    return not kind.__module__.startswith(_TV_TENSORS) or kind.__name__ == "Image"


def _is_text(value: Any) -> bool:
    """Whether this is a text, a path or None; bytes may be a text, or an image that is encoded."""
    ascii_bytes = isinstance(value, bytes) and value.isascii()
    return ascii_bytes or value is None or isinstance(value, (str, os.PathLike))


def _holds_numbers(value: Any) -> bool:
    """Whether this is a number, or an array of numbers, texts or times."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "OS":
            return all(_is_text(item) or isinstance(item, numbers.Number) for item in value.flat)
        return value.dtype.kind in "biufcmMU"
    return isinstance(value, numbers.Number) or (_is_array(value) and _is_plain(value))


def _refused(parts: Sequence[_Part]) -> ValueError:
    found = ", ".join(str(part) for part in parts[:8])
    return ValueError(f"{_EXPECTED}; got {found or 'an empty sample'}")


def _passes(part: _Part, images: Tensor) -> bool:
    """Whether a part of a sample may stay as it is beside images (B, C, H, W).

    So may a text, one number, and numbers of the shape (B,), (n,), (B, n), or (n, B) in a list, as
    `default_collate` makes them of lists. Here n is at most 4,096 and no multiple of H * W, as it
    is of a flattened mask; and with a name such as "boxes", n numbers are positions.
    """
    if _is_text(part.value):
        return True
    if not _holds_numbers(part.value):
        return False
    shape = (*part.lengths, *getattr(part.value, "shape", ()))
    if len(shape) > 2:
        return False
    batch, _, height, width = images.shape
    if math.prod(shape) <= 1 or shape == (batch,):
        return True
    if any(word in key.lower() for key in part.texts() for word in _POSITIONS):
        return False
    count = shape[-1]
    if len(shape) == 2 and shape[0] != batch:
        if count != batch or not part.lengths:
            return False
        count = shape[0]
    return count <= _LONGEST and count % (height * width) != 0


def _find_labels(sample: Any) -> Any:
    """The labels of (images, labels, ...), or of a mapping with a key like "labels" or "target"."""
    if isinstance(sample, (tuple, list)) and len(sample) > 1:
        sample = sample[1]
        if not isinstance(sample, Mapping):
            return sample
    keys = {}
    if isinstance(sample, Mapping):
        keys = {str(key).lower(): key for key in sample}
    found = [key for key in _LABEL_KEYS if key in keys]
    if not found:
        found = [key for key in keys if "label" in key]
        if len(found) > 1:
            found = []
    if not found:
        given = type(sample).__name__
        if keys:
            given += f" with the keys {[*keys.values()]}"
        raise ValueError(
            f"NFAugment needs labels, and found none in a {given}: pass (images, labels), a "
            "mapping with the key 'labels', or labels_getter="
        )
    return sample[keys[found[0]]]


def replace_images(sample: Any, old: Tensor, new: Tensor) -> Any:
    """A copy of the sample's containers with `new` in the place of `old`."""
    if sample is old:
        return new.as_subclass(type(old)) if type(old).__module__.startswith(_TV_TENSORS) else new
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*(replace_images(item, old, new) for item in sample))
    if isinstance(sample, (tuple, list)):
        return type(sample)(replace_images(item, old, new) for item in sample)
    if isinstance(sample, MutableMapping):
        filled = copy.copy(sample)  # keeps attributes, such as a defaultdict's factory
        filled.update({key: replace_images(x, old, new) for key, x in sample.items()})
        return filled
    if isinstance(sample, Mapping) and any(part.value is old for part in _parts(sample)):
        raise ValueError(f"images are in a {type(sample).__name__}, which cannot be changed")
    return sample


def are_names(labels: Any) -> bool:
    """Whether labels are class names, which need no order of the classes."""
    return isinstance(labels, (list, tuple, np.ndarray)) and any(
        isinstance(label, str) for label in labels[:1]
    )


def as_labels(labels: Any, classes: Sequence[str]) -> Tensor:
    """Labels as a tensor: class names as indices, and lists and arrays of numbers or of rows."""
    if isinstance(labels, Tensor):
        check_dense("labels", labels)
        return labels
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iufb":
        native = labels.astype(labels.dtype.newbyteorder("="), copy=False)
        return torch.as_tensor(native, device="cpu")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], Tensor):
        labels = [label.tolist() for label in labels]
    if not isinstance(labels, (list, tuple)):
        raise ValueError(
            "labels must be a tensor, an array or a list of integers, of class names or of one-hot "
            f"rows; got {type(labels).__name__}"
        )
    if not labels:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    if not isinstance(labels[0], str):
        try:
            return torch.as_tensor(labels, device="cpu")
        except (TypeError, ValueError, RuntimeError):  # of rows of several lengths, or words
            raise ValueError(
                f"labels must be integers, class names or one-hot rows; got {labels!r:.80}"
            ) from None
    index = {name: label for label, name in enumerate(unique_names(classes))}
    labels = [composed(name) if isinstance(name, str) else name for name in labels]
    unknown = [name for name in labels if name not in index]
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} is none of the checkpoint's {len(index)} class names, such as "
            f"{list(classes[:5])}"
        )
    return torch.tensor([index[name] for name in labels], device="cpu")


def parse_labels(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The class of each image, (B,) int64 in [0, K), and whether its label names one, (B,) bool.

    Labels are integers (B,) in [0, K), or one-hot rows (B, K). Others are not usable:
    `check_usable` says which. Reads no value back from an accelerator.

    Raises:
        ValueError: The labels have another shape or type.
    """
    numeric = not (labels.is_complex() or labels.is_quantized)
    whole = numeric and not (labels.is_floating_point() or labels.dtype == torch.bool)
    if labels.ndim == 1 and whole:
        index = labels.to(torch.int64)
        usable = (index >= 0) & (index < num_classes)
        return index.clamp(0, num_classes - 1), usable
    if labels.ndim != 2 or labels.shape[1] != num_classes or not numeric:
        raise ValueError(
            f"labels must be integers of shape (B,), or rows of shape (B, {num_classes}) for the "
            f"checkpoint's classes; got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    ones = (labels == 1).sum(1)
    zeros = (labels == 0).sum(1)
    usable = (ones == 1) & (zeros == num_classes - 1)
    return labels.float().argmax(1), usable


def check_usable(labels: Tensor, usable: Tensor, num_classes: int) -> None:
    """Raise ValueError for a label that is not usable. Reads values back from an accelerator."""
    if bool(usable.all()):
        return
    bad = (~usable).nonzero().flatten().tolist()
    value = labels[bad[0]]
    where = f"at position {bad[0]}; of {len(labels)} labels, {len(bad)} are like this"
    if value.ndim == 0:
        number = value.cpu().numpy().item()  # torch's own refuses the largest of uint64
        raise ValueError(
            f"labels must lie in [0, {num_classes}), the checkpoint's classes; got {number} "
            f"{where}. Labels start at 0. Leave out images without a label, or fit the checkpoint "
            "to your classes (nfaug fit)"
        )
    largest = value.float().topk(min(3, num_classes)).values.tolist()
    shown = ", ".join(f"{entry:.9g}" for entry in largest)
    raise ValueError(
        f"rows of labels must be one-hot; got one with the largest entries {shown} {where}. NFA "
        "mixes images of one class: apply it before mixup, cutmix and label smoothing"
    )
