"""Images and labels of the samples that training loops pass around."""

from __future__ import annotations

import copy
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
# Words in the keys of targets that depend on positions, and how many dimensions these have. Fewer
# are metadata, such as an `attention_mask` of shape (B, k). A list counts as one dimension, because
# `default_collate` makes four tensors (B,) of boxes that are lists.
_SPATIAL = {"mask": 3, "segment": 3, "box": 2, "keypoint": 2}
_TV_TENSORS = "torchvision.tv_tensors"
_EXPECTED = (
    "NFAugment takes batches of one tensor of images (B, C, H, W), their labels and metadata. Call "
    "it after the loader, or as its collate_fn (nfaug.integrations.torchvision.NFACollate). Views "
    "and crops are separate batches; masks, boxes, keypoints, videos and other tensors of three or "
    "more dimensions cannot be transformed: take them out of the sample first"
)


def images_and_labels(
    sample: Any, labels_getter: Callable[[Any], Any] | None = None
) -> tuple[Tensor, Any]:
    """The batch of images, a sample's only four-dimensional tensor, and the labels.

    `labels_getter` finds the labels in the sample; None looks for them in the usual places.

    Raises:
        ValueError: One is missing, or the sample holds masks, boxes, keypoints, videos, or another
            tensor of three or more dimensions and the batch's length.
    """
    leaves = dict(_leaves(sample))
    images = [leaf for leaf in leaves.values() if isinstance(leaf, Tensor) and leaf.ndim == 4]
    refused = len(images) != 1
    if not refused:
        batch = len(images[0])
        others = [(path, leaf) for path, leaf in leaves.items() if leaf is not images[0]]
        refused = any(_is_spatial(path, leaf, batch) for path, leaf in others)
    if refused:
        found = [f"{path or 'sample'}: {_described(leaf)}" for path, leaf in leaves.items()]
        raise ValueError(f"{_EXPECTED}; got {', '.join(found[:8]) or 'an empty sample'}")
    labels = _find_labels(sample) if labels_getter is None else labels_getter(sample)
    return images[0], labels


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


def _is_spatial(path: str, leaf: Any, batch: int) -> bool:
    """Whether a part of a sample may have positions in the image: a mask, boxes, a video.

    Beside `batch` images, so does every tensor (B, ..., ...), whatever its name.
    """
    if not isinstance(leaf, Tensor | np.ndarray):
        return False
    if leaf.ndim > 2 and len(leaf) == batch:
        return True
    kind = type(leaf)
    if kind.__name__ == "Image":
        return False
    if kind.__module__.startswith(_TV_TENSORS):
        return True
    key = path.rpartition(".")[2].lower()
    in_list = key.endswith("]")
    if in_list and leaf.ndim > 2 and leaf.ndim != 4:
        return True
    dimensions = leaf.ndim + key.count("[")  # of a list of tensors, one for the list
    return any(word in key and dimensions >= least for word, least in _SPATIAL.items())


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
