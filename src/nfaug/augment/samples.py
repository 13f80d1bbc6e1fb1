"""Images and labels of the samples that training loops pass around."""

from __future__ import annotations

import copy
import numbers
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

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
_TEXTS = (str, bytes, os.PathLike, type(None))
_TV_TENSORS = "torchvision.tv_tensors"
_EXPECTED = (
    "NFAugment takes batches of one tensor of images (B, C, H, W) and their labels. Beside them "
    "may be one number, text or vector for each image; not masks, boxes, keypoints, videos or "
    "other images, which NFA does not transform. Call it after the loader, or as its collate_fn "
    "(nfaug.integrations.torchvision.NFACollate), take what it refuses out of the sample, or call "
    "it on the two alone: nfa(images, labels)"
)


def images_and_labels(
    sample: Any, labels_getter: Callable[[Any], Any] | None = None
) -> tuple[Tensor, Any]:
    """The batch of images, a sample's only four-dimensional tensor, and the labels.

    `labels_getter` finds the labels in the sample; None looks for them in the usual places.

    Raises:
        ValueError: One is missing, or beside them is something else than a number, a text or a
            vector for each image: see `_passes`.
    """
    leaves = dict(_leaves(sample))
    found = [leaf for leaf in leaves.values() if _is_images(leaf)]
    if len(found) != 1:
        raise _refused(leaves)
    images = found[0]
    labels = _find_labels(sample) if labels_getter is None else labels_getter(sample)
    for path, leaf in leaves.items():
        known = leaf is images or (leaf is labels and not _lists_around(path))
        if not known and not _passes(path, leaf, images):
            raise _refused({path: leaf})
    return images, labels


def _lists_around(path: str) -> int:
    """In how many lists a part of a sample lies. The sample itself, a list or tuple, is none."""
    _, _, key = re.sub(r"^\[\d+\]", "", path).rpartition(".")
    return key.count("[")


def _is_images(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim == 4 and _is_plain(leaf)


def _is_plain(leaf: Any) -> bool:
    """Whether this is no mask, box or video of torchvision's."""
    kind = type(leaf)
    return not kind.__module__.startswith(_TV_TENSORS) or kind.__name__ == "Image"


def _refused(leaves: Mapping[str, Any]) -> ValueError:
    found = [f"{path or 'sample'}: {_described(leaf)}" for path, leaf in leaves.items()]
    return ValueError(f"{_EXPECTED}; got {', '.join(found[:8]) or 'an empty sample'}")


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
    if isinstance(sample, Mapping) and any(leaf is old for _, leaf in _leaves(sample)):
        raise ValueError(f"images are in a {type(sample).__name__}, which cannot be changed")
    return sample


def _leaves(sample: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(sample, Mapping):
        for key, value in sample.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(sample, (tuple, list)):
        for number, value in enumerate(sample):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, sample


def _passes(path: str, leaf: Any, images: Tensor) -> bool:
    """Whether a part of a sample may stay as it is beside images (B, C, H, W).

    So may a text, and numbers of one or two dimensions: (B,), or (B, n) where n is at most 4,096
    and no multiple of H * W, as it is of a flattened mask. Each list that a part lies in is a
    dimension. With a name such as "boxes", two dimensions are positions.
    """
    if isinstance(leaf, _TEXTS):
        return True
    numeric = isinstance(leaf, Tensor | np.ndarray) and _is_plain(leaf)
    if not numeric and not isinstance(leaf, numbers.Number | np.generic):
        return False
    shape = tuple(leaf.shape) if numeric else ()
    dimensions = len(shape) + _lists_around(path)
    if dimensions < 2:
        return True
    key = path.rpartition(".")[2].lower()
    if dimensions > 2 or any(word in key for word in _POSITIONS):
        return False
    batch, _, height, width = images.shape
    if len(shape) == 2 and shape[0] != batch:
        return False
    return not shape or (shape[-1] <= _LONGEST and shape[-1] % (height * width) != 0)


def _described(leaf: Any) -> str:
    shape = f" {tuple(leaf.shape)}" if hasattr(leaf, "shape") else ""
    return f"{type(leaf).__module__.partition('.')[0]}.{type(leaf).__name__}{shape}"


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
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim == 1 and whole:
        index = labels.to(torch.int64)
        usable = (index >= 0) & (index < num_classes)
        return index.clamp(0, num_classes - 1), usable
    if labels.ndim != 2 or labels.shape[1] != num_classes or labels.is_complex():
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
