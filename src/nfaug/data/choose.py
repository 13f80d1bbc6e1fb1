"""Random images of each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def choose_of_class(targets: Tensor, label: int, n: int, generator: torch.Generator) -> Tensor:
    """Indices of up to n random images of a class, in random order; a larger n begins with them.

    Args:
        targets: The label of every image, int64 (N,).
        label: The class.
        n: How many; of a class with fewer, all are chosen.
        generator: It draws one permutation of the class's images, whatever n is.
    """
    rows = (targets == label).nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=generator)[:n]]


def choose_per_class(targets: Tensor, n: int | Sequence[int], generator: torch.Generator) -> Tensor:
    """Indices of up to n random images of each class, ascending; a larger n includes them.

    Args:
        targets: The label of every image, int64 (N,).
        n: How many of each class, or a number for each; of a class with fewer, all are chosen.
        generator: It draws a permutation for each class, in the order of labels.
    """
    chosen = []
    for label in targets.unique().tolist():
        number = n if isinstance(n, int) else n[label]
        chosen.append(choose_of_class(targets, label, number, generator))
    return torch.cat([targets.new_empty(0), *chosen]).sort().values
