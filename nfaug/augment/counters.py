"""Outcome counters, and a number that the workers of a data loader share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Counters", "SharedValue"]


class Counters:
    """Counts of images by outcome.

    Counts of masks stay on the masks' device until `read`, so that adding does not synchronize
    an accelerator. Threads may add at the same time. Pickled counters hold plain numbers.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, torch.device | None], int | Tensor] = {
            (name, None): count for name, count in (counts or {}).items()
        }

    def add(self, counts: Mapping[str, int | Tensor]) -> None:
        """Add numbers, and the number of true values of bool masks."""
        with self._lock:
            for name, count in counts.items():
                key = name, count.device if isinstance(count, Tensor) else None
                number = count.sum() if isinstance(count, Tensor) else count
                self._counts[key] = self._counts.get(key, 0) + number

    def read(self, names: Iterable[str] = ()) -> dict[str, int]:
        """Counts over all devices, with zero for those of `names` never added; synchronizes."""
        with self._lock:
            counts = dict.fromkeys(names, 0)
            for (name, _), count in self._counts.items():
                counts[name] = counts.get(name, 0) + int(count)
        return counts

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._counts.clear()

    def __getstate__(self) -> dict[str, Any]:
        # A tensor would travel to a spawned worker by a file descriptor that closes too early.
        return {"counts": self.read()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Counters.__init__(self, state["counts"])


class SharedValue:
    """A number in shared memory, so that a change takes effect in running data-loader workers.

    It is shared with processes that start while it exists. A deep copy and a plain pickle hold
    the value alone.
    """

    def __init__(self, value: float = 1.0) -> None:
        with torch.inference_mode(False):  # or `set` would fail outside it
            self._value = torch.tensor([value], dtype=torch.float64, device="cpu")
        with contextlib.suppress(OSError, RuntimeError):  # no shared memory: workers see old values
            self._value.share_memory_()

    def __bool__(self) -> bool:
        return float(self) > 0

    def __float__(self) -> float:
        return float(self._value.numpy()[0])  # no tensor operation: any mode may be active

    def set(self, value: float) -> None:
        """Change the number in all processes that share it."""
        self._value.fill_(float(value))

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedValue:
        return SharedValue(float(self))
