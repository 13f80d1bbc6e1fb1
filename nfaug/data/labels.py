"""Class labels of a data set, without decoding its images where that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

__all__ = ["labels_of", "stored_labels"]


def labels_of(dataset: Any) -> np.ndarray:
    """Labels of all items, int64 of shape (N,); reads every item if the labels are not stored."""
    labels = stored_labels(dataset)
    if labels is None:
        labels = np.asarray([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)
    return labels


def stored_labels(dataset: Any) -> np.ndarray | None:
    """Labels that a data set stores, int64 of shape (N,), or None.

    Looks at `targets`, `labels` and `samples` of a data set or its `reader` (torchvision, timm),
    at the column `label` of a Hugging Face `Dataset`, at the second tensor of a `TensorDataset`,
    and through `Subset` and `ConcatDataset`. A `target_transform` changes the stored labels, so
    that only reading the items gives them.
    """
    if isinstance(dataset, Subset):
        inner = stored_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [stored_labels(part) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return np.concatenate(found) if len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _as_labels(dataset.tensors[1] if len(dataset.tensors) > 1 else None, len(dataset))
    if getattr(dataset, "target_transform", None) is not None:
        return None
    if "label" in (getattr(dataset, "column_names", None) or ()):
        return _as_labels(dataset["label"][:], len(dataset))
    for holder in (dataset, getattr(dataset, "reader", None)):
        for name in ("targets", "labels", "samples"):
            values = getattr(holder, name, None)
            labels = _as_labels(_seconds(values) if name == "samples" else values, len(dataset))
            if labels is not None:
                return labels
    return None


def _seconds(samples: Any) -> list[Any] | None:
    try:
        return [sample[1] for sample in samples]
    except (TypeError, IndexError, KeyError):
        return None


def _as_labels(values: Any, count: int) -> np.ndarray | None:
    try:
        array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = array.dtype.kind in "iu" and array.shape == (count,)
    return array.astype(np.int64) if whole else None
