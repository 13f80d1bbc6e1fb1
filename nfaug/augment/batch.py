"""Images and labels of the samples that training loops pass around."""

from __future__ import annotations

import copy
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .labels import are_names

__all__ = ["images_and_labels", "replace_images"]

LabelsGetter = Callable[[Any], Any]
# Words in the keys of targets that depend on positions, and how many dimensions these have.
_SPATIAL = {"mask": 3, "segment": 3, "box": 2, "keypoint": 2}
_CLASSIFICATION_ONLY = (
    "NFA is for classification and cannot transform masks, boxes, keypoints or videos"
)
_BATCHES_ONLY = (
    "NFAugment takes batches (images, labels) with images of shape (B, C, H, W), because it mixes "
    "images of one class. Call it after the data loader, or in the loader's workers with "
    "collate_fn=nfaug.integrations.torchvision.NFACollate(nfa)"
)
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def images_and_labels(sample: Any, labels_getter: LabelsGetter | None = None) -> tuple[Tensor, Any]:
    """The batch of images and the labels of a sample.

    A sample is (images, labels, ...), a mapping with a label-like key, or anything from which
    `labels_getter` extracts the labels. The images are its only four-dimensional tensor. Metadata
    of shape (B,) or (B, k) is allowed. A tensor of more dimensions counts as masks or boxes in a
    tuple or list, and in a mapping if its key says so; boxes and keypoints have two or more there.

    Raises:
        ValueError: Labels or images are missing, or the sample holds what NFA cannot transform:
            masks, boxes, keypoints, videos, PIL images, patches.
    """
    leaves = list(_leaves(sample))
    for path, leaf in leaves:
        _check_leaf(path, leaf)
    tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    images = [leaf for _, leaf in tensors if leaf.ndim == 4]
    for path, leaf in leaves if not images else ():
        if isinstance(leaf, np.ndarray) and leaf.ndim > 2:
            order = ".permute(0, 3, 1, 2)" if leaf.shape[-1] <= 4 else ""
            raise ValueError(
                f"the sample holds a numpy array of shape {leaf.shape} at {path or 'its root'}: "
                f"pass torch.from_numpy(images){order}"
            )
    if isinstance(sample, Tensor):
        raise ValueError(f"got a tensor of shape {tuple(sample.shape)} alone: {_BATCHES_ONLY}")
    labels = labels_getter(sample) if labels_getter else _default_labels(sample)
    if not isinstance(labels, Tensor) and not are_names(labels):
        kind = type(labels).__name__
        raise ValueError(
            f"labels must be a tensor, or class names; got {kind}: "
            + {
                "list": "pass torch.tensor(labels)",
                "ndarray": "pass torch.from_numpy(labels)",
                "int": _BATCHES_ONLY,
            }.get(kind, "pass labels_getter=")
        )
    for path, leaf in tensors if images else ():
        views = leaf.ndim == 4 and leaf.shape[:2] == images[0].shape[:2]
        if path.endswith("]") and leaf.ndim >= 3 and leaf is not labels and not views:
            raise ValueError(  # masks (B, H, W) or (B, 1, H, W), boxes (B, N, 4)
                f"the sample holds a tensor of shape {tuple(leaf.shape)} at {path}, which may be "
                f"masks or boxes: {_CLASSIFICATION_ONLY}. Call NFAugment on (images, labels) alone"
            )
    if len(images) != 1:
        cure = "call NFAugment on each batch of views (AugMix splits, multi-crop)"
        if not images:
            cure = "pass torch.stack(images)" if len(tensors) > 2 else _BATCHES_ONLY
        raise ValueError(
            "a sample must hold one batch of images of shape (B, C, H, W); got tensors of shapes "
            f"{[tuple(leaf.shape) for _, leaf in tensors if leaf is not labels]}: {cure}"
        )
    return images[0], labels


def replace_images(sample: Any, old: Tensor, new: Tensor) -> Any:
    """A copy of the sample's containers with `new` in the place of `old`."""
    if sample is old:
        return like(new, old)
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*(replace_images(item, old, new) for item in sample))
    if isinstance(sample, (tuple, list)):
        return type(sample)(replace_images(item, old, new) for item in sample)
    if isinstance(sample, Mapping):
        items = {key: replace_images(value, old, new) for key, value in sample.items()}
        if not isinstance(sample, (dict, UserDict)):
            return type(sample)(items)  # type: ignore[call-arg]
        filled = copy.copy(sample)  # keeps attributes, such as a defaultdict's factory
        filled.update(items)
        return filled
    return sample


def like(new: Tensor, old: Tensor) -> Tensor:
    """`new`, as a tv_tensors.Image if `old` is one."""
    if type(old) is Tensor or "torchvision.tv_tensors" not in sys.modules:
        return new
    return sys.modules["torchvision.tv_tensors"].wrap(new, like=old)


def _leaves(sample: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(sample, Mapping):
        for key, value in sample.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(sample, (tuple, list)):
        for number, value in enumerate(sample):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, sample


def _check_leaf(path: str, leaf: Any) -> None:
    kind = type(leaf)
    where = path or "its root"
    if kind.__module__.startswith("torchvision.tv_tensors") and kind.__name__ != "Image":
        raise ValueError(f"the sample holds {kind.__name__} at {where}: {_CLASSIFICATION_ONLY}")
    if kind.__module__.startswith("PIL."):
        raise ValueError(
            f"the sample holds a PIL image at {where}: {_BATCHES_ONLY}. To augment single images "
            "use nfaug.bank.BankDataset"
        )
    key = path.rpartition(".")[2].lower()
    # Fewer dimensions are metadata, such as `attention_mask` of shape (B, k). A list counts as one:
    # `default_collate` makes four tensors (B,) of boxes that are lists.
    if isinstance(leaf, Tensor) and any(
        word in key and leaf.ndim + key.count("[") >= least for word, least in _SPATIAL.items()
    ):
        raise ValueError(f"the sample holds {path.lstrip('.')!r}: {_CLASSIFICATION_ONLY}")
    if key == "patches" and isinstance(leaf, Tensor):
        raise ValueError(
            "the sample holds patches: NFA cannot be used with NaFlex loaders, which split images "
            "into patches before batching. Use timm.data.create_loader"
        )


def _default_labels(sample: Any) -> Any:
    if isinstance(sample, (tuple, list)):
        if len(sample) < 2:
            raise ValueError(
                f"a sample is (images, labels); got a {type(sample).__name__} of {len(sample)}"
            )
        if not isinstance(sample[1], Mapping):
            return sample[1]
        sample = sample[1]
    if not isinstance(sample, Mapping):
        raise ValueError(
            f"no labels found in a {type(sample).__name__}: pass (images, labels), a mapping "
            "with 'labels', or labels_getter="
        )
    names = {str(key).lower(): key for key in sample}
    for name in _LABEL_KEYS:
        if name in names:
            return sample[names[name]]
    found = [key for name, key in names.items() if "label" in name]
    if len(found) != 1:
        raise ValueError(
            f"no labels found among the keys {list(sample)}; rename the key to 'labels' or pass "
            "labels_getter="
        )
    return sample[found[0]]
