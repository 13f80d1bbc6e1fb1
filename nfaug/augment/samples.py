"""Images and labels of the samples that training loops pass around."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_labels", "check_usable", "class_indices", "images_and_labels", "replace_images"]

_LABEL_KEYS = ("labels", "label", "targets", "target", "y")
# Words in the keys of targets that depend on positions, and how many dimensions these have. Fewer
# are metadata, such as an `attention_mask` of shape (B, k). A list counts as one dimension, because
# `default_collate` makes four tensors (B,) of boxes that are lists.
_SPATIAL = {"mask": 3, "segment": 3, "box": 2, "keypoint": 2}
_TV_TENSORS = "torchvision.tv_tensors"
_EXPECTED = (
    "NFAugment takes batches of one tensor of images (B, C, H, W), their labels and metadata. Call "
    "it after the loader, or as its collate_fn (nfaug.integrations.torchvision.NFACollate). Views "
    "and crops are separate batches; masks, boxes, keypoints and videos cannot be transformed"
)


def images_and_labels(sample: Any) -> tuple[Tensor, Any]:
    """The batch of images, a sample's only four-dimensional tensor, and the labels.

    Raises ValueError if one is missing, or the sample holds masks, boxes, keypoints or videos.
    """
    leaves = dict(_leaves(sample))
    images = [leaf for leaf in leaves.values() if isinstance(leaf, Tensor) and leaf.ndim == 4]
    if len(images) != 1 or any(_is_spatial(path, leaf) for path, leaf in leaves.items()):
        found = [f"{path or 'sample'}: {_described(leaf)}" for path, leaf in leaves.items()]
        raise ValueError(f"{_EXPECTED}; got {', '.join(found[:8]) or 'an empty sample'}")
    return images[0], _find_labels(sample)


def _find_labels(sample: Any) -> Any:
    """The labels of (images, labels, ...), or of a mapping with a key like "labels" or "target"."""
    if isinstance(sample, (tuple, list)) and len(sample) > 1:
        sample = sample[1]
        if not isinstance(sample, Mapping):
            return sample
    keys = {str(key).lower(): key for key in sample} if isinstance(sample, Mapping) else {}
    found = [key for key in _LABEL_KEYS if key in keys][:1] or [k for k in keys if "label" in k]
    if len(found) != 1:
        raise ValueError(
            f"no labels found in a {type(sample).__name__} of {[*keys.values()] or 'one item'}: "
            "pass (images, labels), or a mapping with the key 'labels'"
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


def _is_spatial(path: str, leaf: Any) -> bool:
    """Whether a part of a sample has positions in the image: a mask, boxes, keypoints, a video."""
    kind, key = type(leaf), path.rpartition(".")[2].lower()
    if not isinstance(leaf, Tensor) or kind.__name__ == "Image":
        return False
    named = any(w in key and leaf.ndim + key.count("[") >= n for w, n in _SPATIAL.items())
    in_list = key.endswith("]") and leaf.ndim > 2 and leaf.ndim != 4
    return named or in_list or kind.__module__.startswith(_TV_TENSORS)


def _described(leaf: Any) -> str:
    shape = f" {tuple(leaf.shape)}" if hasattr(leaf, "shape") else ""
    return f"{type(leaf).__module__.partition('.')[0]}.{type(leaf).__name__}{shape}"


def as_labels(labels: Any, class_names: Sequence[str]) -> Tensor:
    """Labels as a tensor: tensors as they are, class names (a list, tuple or array) as indices."""
    if isinstance(labels, Tensor):
        return labels
    names = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not (isinstance(names, (list, tuple)) and names and isinstance(names[0], str)):
        raise ValueError(f"labels must be a tensor, or class names; got {type(labels).__name__}")
    index = {name: label for label, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in index]:
        raise ValueError(
            f"label {unknown[0]!r} is none of the checkpoint's {len(index)} class names, such as "
            f"{[*class_names[:5]]}"
        )
    return torch.tensor([index[name] for name in names], device="cpu")


def class_indices(
    labels: Tensor, num_classes: int, *, smoothing: float | None = None
) -> tuple[Tensor, Tensor]:
    """Class of each image, (B,) int64 in [0, K), and whether its label is usable, (B,) bool.

    Usable are integers in [0, K) of shape (B,), and rows (B, K) that are one-hot or smoothed (all
    entries but the largest are equal). Mixed rows of two classes look smoothed, so these need
    `smoothing`. Reads no value back from an accelerator.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim == 1 and whole:
        index = labels.to(torch.int64)
        return index.clamp(0, num_classes - 1), (index >= 0) & (index < num_classes)
    if labels.ndim != 2 or labels.shape[1] != num_classes or labels.is_complex():
        raise ValueError(
            f"labels must be integers of shape (B,), or rows of shape (B, {num_classes}) for the "
            f"checkpoint's classes; got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    rows = labels.float()
    top, index = rows.max(1)
    tolerance = 1e-2 if labels.dtype in (torch.float16, torch.bfloat16) else 1e-3
    return index, _is_pure(rows, top, tolerance, smoothing)


def check_usable(
    labels: Tensor, usable: Tensor, num_classes: int, *, smoothing: float | None = None
) -> None:
    """Raise ValueError for a label that is not usable. Reads values back from an accelerator."""
    if bool(usable.all()):
        return
    bad = (~usable).nonzero().flatten().tolist()
    where = f"at position {bad[0]}, and {len(bad) - 1} more of {len(labels)}"
    if labels.ndim == 1:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), the checkpoint's classes; got "
            f"{int(labels[bad[0]])} {where}. Labels start at 0. Leave out images without a "
            "label, or fit the flow to your classes (nfaug fit)"
        )
    row = [f"{x:.4g}" for x in labels[bad[0]].float().topk(min(3, num_classes)).values.tolist()]
    raise ValueError(
        "rows of soft labels must be one-hot or smoothed; got one with largest entries "
        f"{', '.join(row)} {where}. Apply NFA, which mixes images of one class, before mixup and "
        f"cutmix. Two smoothed classes need smoothing=; it is {smoothing}"
    )


def _is_pure(rows: Tensor, top: Tensor, tolerance: float, smoothing: float | None) -> Tensor:
    """Whether each row is one-hot, or one-hot smoothed. NaN fails every test."""
    classes = rows.shape[1]
    least, total = rows.amin(1), rows.sum(1)
    distribution = (least >= -tolerance) & ((total - 1).abs() <= tolerance)
    # All entries but the largest are equal if their mean is the smallest.
    equal = ((total - top) / max(1, classes - 1) - least).abs() <= tolerance / classes
    one_hot = top >= 1 - tolerance
    if smoothing is not None:
        # The smoothing mass goes to all classes (timm, torch) or to the other classes.
        for expected in (1 - smoothing + smoothing / classes, 1 - smoothing):
            one_hot = one_hot | ((top - expected).abs() <= tolerance)
        return distribution & equal & one_hot
    return distribution & (one_hot if classes <= 2 else equal & (top - least > tolerance))
