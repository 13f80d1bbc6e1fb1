"""Counts of images by what became of them, kept where they arise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Counters"]


class Counters:
    """Sums of masks by name, on each device that masks come from: adding stalls no accelerator."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._held: dict[tuple[str, torch.device], Tensor] = {}

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Count what is true in each mask; the keys are some of the names."""
        for name, mask in masks.items():
            key = name, mask.device
            self._held[key] = self._held.get(key, 0) + mask.sum()

    def read(self) -> dict[str, int]:
        """The counts of every name over all devices; waits for them."""
        counts = dict.fromkeys(self._names, 0)
        for (name, _), count in self._held.items():
            counts[name] += int(count)
        return counts

    def reset(self) -> None:
        """Start from zero."""
        self._held = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickled, counts lie on the CPU: whoever reads them may have no accelerator."""
        cpu = torch.device("cpu")
        held = {(name, cpu): torch.tensor(count, device=cpu) for name, count in self.read().items()}
        return {"_names": self._names, "_held": held}
