"""What labels say about a batch: class indices, or one-hot and smoothed rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_indices", "refuse_unusable"]


def class_indices(
    labels: Tensor, num_classes: int, *, smoothing: float | None = None
) -> tuple[Tensor, Tensor]:
    """Class of each image and whether it can be trusted, (B,) int64 and (B,) bool.

    Takes integers of shape (B,), or rows of shape (B, K): one-hot, or smoothed, where all entries
    but the largest are equal. A class that is out of range, and a row of any other kind (mixed
    already, multi-hot, no distribution), is not trusted; its index is put in range. No value is
    read back from an accelerator.

    Raises:
        ValueError: shape or type can be no class labels at all.
    """
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} must be integers, the class of each image; "
                f"got {labels.dtype}. Soft labels have shape (B, {num_classes})"
            )
        index = labels.to(torch.int64)
        return index.clamp(0, num_classes - 1), (index >= 0) & (index < num_classes)
    if labels.ndim != 2 or labels.is_complex():
        raise ValueError(
            f"labels must have shape (B,) or (B, {num_classes}); got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Masks and boxes cannot be augmented with NFA"
        )
    if labels.shape[1] != num_classes:
        hint = "; pass labels.squeeze(1)" if labels.shape[1] == 1 else ""
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} are of {labels.shape[1]} classes, the "
            f"checkpoint has {num_classes}{hint}"
        )
    rows = labels.float()
    top, index = rows.max(1)
    return index, _is_pure(rows, top, _tolerance(labels), smoothing)


def refuse_unusable(
    labels: Tensor, usable: Tensor, num_classes: int, *, smoothing: float | None = None
) -> None:
    """Say why labels are not usable, if one is not. Reads values: it stalls an accelerator.

    Raises:
        ValueError: quotes a label that is not usable and says what would do.
    """
    if bool(usable.all()):
        return
    if labels.ndim == 1:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), the checkpoint's classes; got values from "
            f"{int(labels.min())} to {int(labels.max())}. Fit the flow to these classes (nfaug fit)"
        )
    row = labels[int((~usable).nonzero()[0])].float()
    shown = f"a row with sum {float(row.sum()):.4g} and largest entries " + ", ".join(
        f"{value:.4g}" for value in row.topk(min(3, num_classes)).values.tolist()
    )
    if not bool(torch.isfinite(row).all()) or abs(float(row.sum()) - 1) > _tolerance(labels):
        raise ValueError(
            f"soft labels must be rows that sum to 1; got {shown}. Multi-hot targets cannot be "
            "augmented with NFA: it mixes images of one class"
        )
    if float(row.min()) < -_tolerance(labels):
        raise ValueError(f"soft labels must not be negative; got {shown}")
    if num_classes == 2 and smoothing is None:
        raise ValueError(
            f"with two classes smoothed and mixed labels look alike; got {shown}. Pass smoothing= "
            "to NFAugment, and put it before mixup and cutmix"
        )
    if smoothing is not None:
        raise ValueError(
            f"labels are not one-hot smoothed by {smoothing:g}; got {shown}. Pass the smoothing "
            "that the labels have, and put NFA before mixup and cutmix"
        )
    raise ValueError(
        f"labels are mixed already; got {shown}. Put NFA before mixup and cutmix, which need the "
        "images of one class to have been mixed first"
    )


def _tolerance(labels: Tensor) -> float:
    return 1e-2 if labels.dtype in (torch.float16, torch.bfloat16) else 1e-3


def _is_pure(rows: Tensor, top: Tensor, tolerance: float, smoothing: float | None) -> Tensor:
    """Whether each row is one-hot, or one-hot smoothed."""
    classes = rows.shape[1]
    least, total = rows.amin(1), rows.sum(1)
    distribution = (least >= -tolerance) & ((total - 1).abs() <= tolerance)
    # All entries but the top one are equal when the smallest is their mean. NaN fails everything.
    equal = ((total - top) / max(1, classes - 1) - least).abs() <= tolerance / classes
    one_hot = top >= 1 - tolerance
    if smoothing is not None:
        # Smoothing mass is spread over all classes (as in timm and torch) or over the others.
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
