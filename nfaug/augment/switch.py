"""A switch that worker processes see at once."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["Switch"]


class Switch:
    """A number in shared memory: a loader's persistent workers follow when it is set.

    Copies are independent. It is shared with processes that are started while it exists (a loader's
    workers), and kept by value in a plain pickle.
    """

    def __init__(self, value: float = 1.0) -> None:
        self._value = torch.tensor([value], dtype=torch.float64, device="cpu")
        with contextlib.suppress(OSError, RuntimeError):  # no shared memory: seen by later workers
            self._value.share_memory_()

    def __bool__(self) -> bool:
        return float(self) > 0

    def __float__(self) -> float:
        return float(self._value.numpy()[0])  # no tensor operation: any mode may be active

    def set(self, value: float) -> None:
        """Change the number, for every process that shares it."""
        self._value.fill_(float(value))

    def __deepcopy__(self, memo: dict[int, Any]) -> Switch:
        return Switch(float(self))
