"""Checks of classes. Every `check_*` raises ValueError."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = ["check_class_names", "check_class_sizes"]


def check_class_sizes(labels: Tensor, names: Sequence[str]) -> None:
    """Check that every class has an image; warn of classes with one, which get no PCA axes."""
    counts = labels.bincount(minlength=len(names)).tolist()
    if empty := [repr(name) for name, count in zip(names, counts, strict=True) if not count]:
        start = "" if counts[0] else "labels start at 0, and "
        raise ValueError(
            f"the data set has no image of {len(empty)} of its {len(names)} classes: "
            f"{_few(empty)}; {start}each label in 0..K-1 needs at least one image"
        )
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
