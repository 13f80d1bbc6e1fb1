"""Finding images and labels in whatever a training loop passes around, and putting images back."""

from __future__ import annotations

import copy
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["find", "replace_images"]

LabelsGetter = Callable[[Any], Tensor]
_SPATIAL = ("mask", "box", "keypoint", "segment")  # keys of targets that would have to move too
_STAYS = (
    "masks, boxes and keypoints cannot follow an image through NFA, which is for classification"
)
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def find(sample: Any, labels_getter: LabelsGetter | None = None) -> tuple[Tensor, Tensor]:
    """The batch of images and the labels of a sample.

    A sample is (images, labels, ...) or a mapping with labels under a label-like key, or anything
    for which `labels_getter` returns the labels. The images are its one tensor of four dimensions.
    Metadata of each image, of shape (B,) or (B, k), may come along; in a tuple or list a tensor of
    more dimensions is taken for masks or boxes, in a mapping its key must say so.

    Raises:
        ValueError: labels or images are not found, or there is something in the sample that NFA
            cannot transform: masks, boxes, keypoints, videos, PIL images, patches.
    """
    for path, leaf in _leaves(sample):
        _refuse(path, leaf)
    labels = labels_getter(sample) if labels_getter else _default_labels(sample)
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"labels must be a tensor; got {type(labels).__name__}. Pass (images, labels), a "
            "dictionary with 'labels', or labels_getter="
        )
    tensors = [
        (path, leaf)
        for path, leaf in _leaves(sample)
        if isinstance(leaf, Tensor) and leaf is not labels
    ]
    images = [leaf for _, leaf in tensors if leaf.ndim == 4]
    if images:
        _refuse_unnamed(tensors, images[0])
    if len(images) != 1:
        shapes = [tuple(leaf.shape) for _, leaf in tensors]
        raise ValueError(
            f"a sample needs one batch of images of shape (B, C, H, W); got tensors of shapes "
            f"{shapes}. Several views of each image (AugMix splits, multi-crop) are not supported; "
            "call NFAugment on each batch of images"
        )
    return images[0], labels


def replace_images(sample: Any, old: Tensor, new: Tensor) -> Any:
    """The sample with `new` in the place of `old`; containers are copied, nothing is changed."""
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
        filled = copy.copy(sample)  # keeps what else it has: a defaultdict's factory, attributes
        filled.update(items)
        return filled
    return sample


def like(new: Tensor, old: Tensor) -> Tensor:
    """`new` as a tv_tensors.Image where `old` is one."""
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


def _refuse(path: str, leaf: Any) -> None:
    kind = type(leaf)
    origin = f"{kind.__module__}.{kind.__name__}"
    if origin.startswith("torchvision.tv_tensors") and kind.__name__ != "Image":
        raise ValueError(
            f"the sample holds {kind.__name__} at {path or 'its root'}: masks, boxes, keypoints "
            "and videos cannot follow an image through NFA, which is for classification"
        )
    if origin.startswith("PIL."):
        raise ValueError(
            f"the sample holds a PIL image at {path or 'its root'}: NFAugment takes a batch as a "
            "tensor (B, C, H, W). Use a bank (nfaug.bank.BankDataset) to augment single images"
        )
    key = path.rpartition(".")[2].lower()
    if isinstance(leaf, Tensor) and any(word in key for word in _SPATIAL):
        raise ValueError(f"the sample holds {path.lstrip('.')!r}: {_STAYS}")
    if key == "patches" and isinstance(leaf, Tensor):
        raise ValueError(
            "the sample holds patches, not images: NaFlex loaders cut images before they are "
            "batched, so NFA cannot be used with them; use timm.data.create_loader"
        )


def _refuse_unnamed(tensors: list[tuple[str, Tensor]], images: Tensor) -> None:
    """Refuse masks (B, H, W) and (B, 1, H, W) and boxes (B, N, 4) where no key says what they are.

    Any tensor of so many dimensions could be one; further views of the images are left to `find`.
    """
    for path, leaf in tensors:
        views = leaf.ndim == 4 and leaf.shape[:2] == images.shape[:2]
        if path.endswith("]") and leaf.ndim >= 3 and not views:
            raise ValueError(
                f"the sample holds a tensor of shape {tuple(leaf.shape)} at {path}: {_STAYS}. If "
                "it is none of these, call NFAugment on (images, labels) alone"
            )


def _default_labels(sample: Any) -> Any:
    if isinstance(sample, (tuple, list)):
        if len(sample) < 2:
            raise ValueError(
                f"a sample is (images, labels); got a {type(sample).__name__} of {len(sample)}"
            )
        if isinstance(sample[1], Tensor):
            return sample[1]
        sample = sample[1]
    if not isinstance(sample, Mapping):
        raise ValueError(
            f"no labels found in a {type(sample).__name__}: pass (images, labels), a dictionary "
            "with 'labels', or labels_getter="
        )
    names = {str(key).lower(): key for key in sample}
    for name in _LABEL_KEYS:
        if name in names:
            return sample[names[name]]
    found = [key for name, key in names.items() if "label" in name]
    if len(found) != 1:
        raise ValueError(
            f"no labels found among the keys {list(sample)}; call them 'labels' or pass "
            "labels_getter="
        )
    return sample[found[0]]
