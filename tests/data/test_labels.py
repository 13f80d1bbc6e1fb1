"""Labels are found where data sets store them, else read from the items."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from nfaug.data.classes import labels_of, stored_labels

LABELS = [2, 0, 1, 2]


class Items(Dataset[tuple[int, int]]):
    """Counts how many of its items are read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)
        self.reads = 0

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.reads += 1
        return 0, LABELS[index]


@pytest.mark.parametrize(
    "attributes",
    [
        {"targets": LABELS},
        {"targets": torch.tensor(LABELS)},
        {"targets": [torch.tensor(y) for y in LABELS]},
        {"labels": np.array(LABELS, dtype=np.uint8)},
        {"samples": [(f"{y}.png", y) for y in LABELS]},
        {"reader": SimpleNamespace(samples=[("a.png", y) for y in LABELS])},
        {"targets": None, "labels": tuple(LABELS)},
        {"targets": LABELS[:2], "samples": [("a.png", y) for y in LABELS]},
    ],
)
def test_stored_labels_are_found_without_reading(attributes: dict[str, Any]) -> None:
    data = Items(**attributes)
    assert labels_of(data).tolist() == LABELS
    assert labels_of(data).dtype == np.int64
    assert data.reads == 0


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": ["cat"] * 4},
        {"targets": torch.rand(4)},
        {"targets": torch.zeros(4, 2, dtype=torch.int64)},
        {"samples": ["a.png"] * 4},
        {"samples": [{"image": 1}] * 4},
        {"targets": [9, 9, 9, 9], "target_transform": lambda y: y},
    ],
)
def test_other_labels_are_read(attributes: dict[str, Any]) -> None:
    data = Items(**attributes)
    assert stored_labels(data) is None
    assert labels_of(data).tolist() == LABELS
    assert data.reads == len(LABELS)


def test_wrappers() -> None:
    stored, unknown = Items(targets=LABELS), Items()
    tensors = TensorDataset(torch.zeros(4), torch.tensor(LABELS))
    assert labels_of(tensors).tolist() == LABELS
    assert stored_labels(TensorDataset(torch.zeros(4))) is None
    assert labels_of(Subset(stored, [3, 1])).tolist() == [2, 0]
    both = ConcatDataset([Subset(stored, [0]), tensors])
    assert stored_labels(both).tolist() == [2, *LABELS]
    assert stored_labels(ConcatDataset([stored, unknown])) is None
    assert labels_of(Subset(unknown, [2])).tolist() == [1]
