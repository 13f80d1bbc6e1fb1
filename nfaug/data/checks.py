"""Checks of labels and class names. Every `check_*` raises ValueError."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["check_class_names", "check_class_sizes", "check_labels"]


def check_labels(
    labels: Tensor, names: Sequence[str], *, complete: bool = True, where: str = "the data set"
) -> Tensor:
    """Return labels as int64 of shape (N,) if they are integers in 0..K-1.

    Args:
        labels: The labels.
        names: The K class names.
        complete: Whether every class must have at least one image.
        where: The name of the data in messages.

    Raises:
        ValueError: If a label is not an integer or is out of range, or a class has no image.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be integers of shape (N,); {where} has {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    labels = labels.long()
    wrong = labels[(labels < 0) | (labels >= len(names))]
    if len(wrong):
        raise ValueError(
            f"labels must be 0..{len(names) - 1} for {len(names)} classes; {where} has the label "
            f"{int(wrong[0])}"
        )
    counts = labels.bincount(minlength=len(names)).tolist()
    start = "labels start at 0, and " if len(labels) and not counts[0] else ""
    empty = [repr(name) for name, count in zip(names, counts, strict=True) if not count]
    if complete and empty:
        raise ValueError(
            f"{where} has no image of {len(empty)} of its {len(names)} classes: {_few(empty)}; "
            f"{start}each label in 0..K-1 needs at least one image"
        )
    return labels


def check_class_sizes(labels: Tensor, names: Sequence[str]) -> None:
    """Check that every class has an image; warn of classes with one, which get no PCA axes."""
    counts = check_labels(labels, names).bincount().tolist()
    if single := [repr(name) for name, count in zip(names, counts, strict=True) if count == 1]:
        warnings.warn(
            f"{len(single)} of {len(names)} classes have one image, so they get no PCA axes and "
            f"no partners, and NFA leaves their images unchanged: {_few(single)}",
            stacklevel=3,
        )


def check_class_names(names: Iterable[str] | None, expected: Sequence[str]) -> None:
    """Check that a data set has the class names of a checkpoint, in its order."""
    found = list(names or ())
    if not expected:
        raise ValueError("the checkpoint has no class names to compare with; fit it (nfaug fit)")
    if found == list(expected):
        return
    same = sorted(found) == sorted(expected)
    pairs = enumerate(itertools.zip_longest(found, expected))
    label, ours, theirs = next((i, *pair) for i, pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"the data set has {len(found)} classes and the checkpoint {len(expected)}, "
        f"{'the same in another order' if same else 'others'}: label {label} is {ours!r} in the "
        f"data and {theirs!r} in the checkpoint. Images would be mixed with images of another "
        "class. Use the checkpoint's classes in its order, or fit the flow to this data (nfaug fit)"
    )


def _few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more or "none"
