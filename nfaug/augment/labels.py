"""Class indices of a batch's labels: integers, class names, one-hot rows or smoothed rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["are_names", "check_usable", "class_indices", "index_names"]


def are_names(labels: Any) -> bool:
    """Whether labels are class names: a list, tuple or numpy array of strings."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return isinstance(values, (list, tuple)) and bool(values) and isinstance(values[0], str)


def index_names(labels: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """Class indices (B,) of class names.

    Raises:
        ValueError: A name is none of the checkpoint's classes, or the checkpoint has no names.
    """
    index = {name: label for label, name in enumerate(class_names)}
    for name in labels:
        if name not in index:
            near = difflib.get_close_matches(str(name), class_names, 1)
            raise ValueError(
                f"label {name!r} is none of the checkpoint's {len(index)} class names"
                + (f"; did you mean {near[0]!r}?" if near else ", " + ", ".join(class_names[:10]))
            )
    return torch.tensor([index[name] for name in labels], device="cpu")


def class_indices(
    labels: Tensor, num_classes: int, *, smoothing: float | None = None
) -> tuple[Tensor, Tensor]:
    """Class of each image, (B,) int64 in [0, K), and whether its label is usable, (B,) bool.

    Usable labels are integers in [0, K) of shape (B,), and rows of shape (B, K) that are one-hot
    or smoothed (all entries but the largest are equal). Other rows, such as mixed or multi-hot
    ones, are not usable. Reads no value back from an accelerator.

    Raises:
        ValueError: The shape or type is not that of class labels.
    """
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} must be integer class indices; got "
                f"{labels.dtype}. Soft labels have shape (B, {num_classes})"
            )
        index = labels.to(torch.int64)
        return index.clamp(0, num_classes - 1), (index >= 0) & (index < num_classes)
    if labels.ndim != 2 or labels.is_complex():
        raise ValueError(
            f"labels must have shape (B,) or (B, {num_classes}); got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. NFA is for classification"
        )
    if labels.shape[1] != num_classes:
        hint = "; pass labels.squeeze(1)" if labels.shape[1] == 1 else ""
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} have {labels.shape[1]} classes, the "
            f"checkpoint has {num_classes}{hint}"
        )
    rows = labels.float()
    top, index = rows.max(1)
    return index, _is_pure(rows, top, _tolerance(labels), smoothing)


def check_usable(
    labels: Tensor, usable: Tensor, num_classes: int, *, smoothing: float | None = None
) -> None:
    """Raise if a label is not usable. Reads values, which synchronizes an accelerator.

    Raises:
        ValueError: Quotes a label that is not usable.
    """
    if bool(usable.all()):
        return
    if labels.ndim == 1:
        bad = (~usable).nonzero().flatten()
        label = int(labels[bad[0]])
        cure = "Leave out images without a label"
        if label >= 0:
            cure = "Fit the flow to your classes (nfaug fit)"
        raise ValueError(
            f"labels must lie in [0, {num_classes}), the checkpoint's classes; got {label} at "
            f"position {int(bad[0])}, and {len(bad) - 1} more of {len(labels)}. {cure}"
        )
    row = labels[int((~usable).nonzero()[0])].float()
    shown = f"a row with sum {float(row.sum()):.4g} and largest entries " + ", ".join(
        f"{value:.4g}" for value in row.topk(min(3, num_classes)).values.tolist()
    )
    if not bool(torch.isfinite(row).all()) or abs(float(row.sum()) - 1) > _tolerance(labels):
        raise ValueError(
            f"rows of soft labels must sum to 1; got {shown}. NFA mixes images of one class and "
            "does not support multi-hot targets"
        )
    if float(row.min()) < -_tolerance(labels):
        raise ValueError(f"soft labels must not be negative; got {shown}")
    if num_classes == 2 and smoothing is None:
        raise ValueError(
            f"smoothed and mixed labels of two classes cannot be told apart; got {shown}. Pass "
            "smoothing= to NFAugment and apply it before mixup and cutmix"
        )
    if smoothing is not None:
        raise ValueError(
            f"labels are not one-hot labels smoothed by {smoothing:g}; got {shown}. Pass the "
            "labels' own smoothing and apply NFA before mixup and cutmix"
        )
    raise ValueError(
        f"labels are already mixed; got {shown}. Apply NFA, which mixes images of one class, "
        "before mixup and cutmix"
    )


def _tolerance(labels: Tensor) -> float:
    return 1e-2 if labels.dtype in (torch.float16, torch.bfloat16) else 1e-3


def _is_pure(rows: Tensor, top: Tensor, tolerance: float, smoothing: float | None) -> Tensor:
    """Whether each row is one-hot, or one-hot smoothed."""
    classes = rows.shape[1]
    least, total = rows.amin(1), rows.sum(1)
    distribution = (least >= -tolerance) & ((total - 1).abs() <= tolerance)
    # All entries but the largest are equal if their mean is the smallest. NaN fails every test.
    equal = ((total - top) / max(1, classes - 1) - least).abs() <= tolerance / classes
    one_hot = top >= 1 - tolerance
    if smoothing is not None:
        # The smoothing mass goes to all classes (timm, torch) or to the other classes.
        expected = (1 - smoothing + smoothing / classes, 1 - smoothing)
        matches = one_hot
        for value in expected:
            matches = matches | ((top - value).abs() <= tolerance)
        return distribution & equal & matches
    if classes == 2:
        return distribution & one_hot
    if classes == 1:
        return distribution
    return distribution & equal & (top - least > tolerance)
