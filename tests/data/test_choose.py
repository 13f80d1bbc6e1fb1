"""Random images of each class."""

from __future__ import annotations

import pytest
import torch

from nfaug.data.choose import choose_of_class, choose_per_class

TARGETS = torch.tensor([2, 0, 0, 4, 2, 0, 2, 2, 0, 4])  # no image of 1 and 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_images_of_each_class(n: int) -> None:
    chosen = choose_per_class(TARGETS, n, generator())
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert TARGETS[chosen].bincount().tolist() == [min(n, 4), 0, min(n, 4), 0, min(n, 2)]
    assert set(chosen.tolist()) <= set(choose_per_class(TARGETS, n + 1, generator()).tolist())
    for label in (0, 1, 2):
        rows = choose_of_class(TARGETS, label, n, generator())
        assert rows.tolist() == choose_of_class(TARGETS, label, 100, generator()).tolist()[:n]
        assert set(TARGETS[rows].tolist()) <= {label}


def test_the_choice_is_the_same_for_ever() -> None:
    """Comparisons and figures stand on it."""
    assert choose_per_class(TARGETS, 2, generator()).tolist() == [0, 1, 2, 3, 6, 9]
    assert choose_of_class(TARGETS, 2, 3, generator(1)).tolist() == [4, 7, 6]
    assert choose_per_class(TARGETS[:0], 2, generator()).tolist() == []


def test_a_choice_follows_from_its_seed() -> None:
    many = torch.zeros(100, dtype=torch.int64)
    assert choose_per_class(many, 5, generator()).tolist() != (
        choose_per_class(many, 5, generator(1)).tolist()
    )
