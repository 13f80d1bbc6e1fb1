"""Outcomes of images and their counts, and a number that the workers of a data loader share."""

from __future__ import annotations

import math
import mmap
import threading
from enum import IntEnum
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_WORKERS = 256  # of a data loader, with the main process


class Outcome(IntEnum):
    """What became of an image in a call of `NFAugment`; `_REASONS` has their order."""

    UNCHOSEN = 0
    APPLIED = 1
    FAR = 2
    NO_PARTNER = 3
    GATED = 4
    FELL_BACK = 5
    NOT_FINITE = 6


class Checks(NamedTuple):
    """What must hold of each of n images, (n,) bool each. Only if all does, it is replaced.

    Otherwise it goes out as it came in, and `_REASONS` has the order in which these are reasons.

    Attributes:
        ok: Its pixels are finite, and its label names a class.
        chosen: It is to be augmented.
        finite: Its variant is finite, as far as mixing goes.
        changes: It has a partner, or gets noise.
        inside: It and its variant lie within the gate.
        near: The round trip of the flow is exact for it, or need not be.
        decoded: Its variant is finite as an image.
    """

    ok: Tensor
    chosen: Tensor
    finite: Tensor
    changes: Tensor
    inside: Tensor
    near: Tensor
    decoded: Tensor

    def hold(self) -> Tensor:
        """Which images are replaced, (n,) bool."""
        return torch.stack(self).all(0)

    def found(self, rows: Tensor, **later: Tensor) -> Checks:
        """These checks with what was found later, (m,) by name, of the images at these rows."""
        new = {}
        for name, holds in later.items():
            old = getattr(self, name)
            new[name] = old.index_copy(0, rows, old.index_select(0, rows) & holds)
        return self._replace(**new)


_REASONS = {  # the outcome of an image by the first check that does not hold
    "ok": Outcome.NOT_FINITE,
    "chosen": Outcome.UNCHOSEN,
    "finite": Outcome.FELL_BACK,
    "changes": Outcome.NO_PARTNER,
    "inside": Outcome.GATED,
    "near": Outcome.FAR,
    "decoded": Outcome.FELL_BACK,
}


def outcomes(ok: Tensor, index: Tensor, checks: Checks | None) -> Tensor:
    """The codes of the outcomes of a batch, (B,).

    Args:
        ok: (B,) bool, as in `Checks`.
        index: (n,) positions of the images that were drawn. The others were not chosen.
        checks: What held of these n images, or None if there are none.
    """
    codes = torch.where(ok, _REASONS["chosen"].value, _REASONS["ok"].value)
    if checks is None:
        return codes
    drawn = torch.full_like(index, Outcome.APPLIED.value)
    for name, reason in reversed(_REASONS.items()):
        drawn.masked_fill_(~getattr(checks, name), reason.value)
    return codes.index_copy_(0, index, drawn)


class Counters:
    """Counts of images by outcome.

    Those of an accelerator stay on it until `read`, so that adding does not synchronize it. Those
    of the CPU are in memory that the workers of a data loader share, with a row for each worker.
    Threads may add at the same time. Copies start at zero.
    """

    def __init__(self, rows: Tensor | None = None) -> None:
        self._lock = threading.Lock()
        if rows is None:
            rows = _shared_zeros(_WORKERS, len(Outcome), dtype=torch.int64)
        self._rows = rows
        self._counts: dict[torch.device, Tensor] = {}  # of accelerators

    def add(self, outcomes: Tensor) -> None:
        """Count the images of a batch by their codes (B,)."""
        new = outcomes.new_zeros(len(Outcome)).scatter_add_(0, outcomes, torch.ones_like(outcomes))
        worker = get_worker_info()
        with self._lock:
            if new.device.type == "cpu":
                row = 0 if worker is None else 1 + worker.id % (_WORKERS - 1)
                self._rows.numpy()[row] += new.numpy()
            else:
                self._counts[new.device] = new + self._counts.get(new.device, 0)

    def read(self) -> dict[str, int]:
        """Counts over all devices, with all images as `seen`; synchronises."""
        with self._lock:
            rows = self._rows.tolist() + [counts.tolist() for counts in self._counts.values()]
        codes = [sum(row[code] for row in rows) for code in Outcome]
        counts = {code.name.lower(): codes[code] for code in Outcome if code}
        return {"seen": sum(codes), **counts}

    def __reduce__(self) -> Any:
        if not get_spawning_popen():
            return Counters, ()
        with self._lock:  # a worker is being started
            self._rows = _sendable(self._rows)
        return Counters, (self._rows,)


class SharedValue:
    """A number in shared memory, so that a change takes effect in running data-loader workers.

    It is shared with processes that start while it exists. A deep copy and a plain pickle hold
    the value alone.
    """

    def __init__(self, value: float | Tensor = 1.0) -> None:
        if not isinstance(value, Tensor):
            number = value
            value = _shared_zeros(1, dtype=torch.float64)
            value.numpy()[0] = number
        self._value = value

    def __float__(self) -> float:
        return float(self._value.numpy()[0])  # no tensor operation: inference mode may be active

    def set(self, value: float) -> None:
        """Change the number in all processes that share it."""
        self._value.numpy()[0] = value

    def __reduce__(self) -> Any:
        if not get_spawning_popen():
            return SharedValue, (float(self),)
        self._value = _sendable(self._value)
        return SharedValue, (self._value,)


class SharedMarks:
    """Marks of some of `count` things, which the workers of a data loader share.

    A deep copy and a plain pickle begin without marks.
    """

    def __init__(self, count: int, marks: Tensor | None = None) -> None:
        self._count = count
        self._marks = _shared_zeros(max(1, count), dtype=torch.uint8) if marks is None else marks

    def set(self, index: int) -> None:
        """Mark one."""
        self._marks.numpy()[index] = 1

    def count(self) -> int:
        """How many are marked, in all processes."""
        return int(self._marks.numpy().sum(dtype="int64"))

    def __reduce__(self) -> Any:
        if not get_spawning_popen():
            return SharedMarks, (self._count,)
        self._marks = _sendable(self._marks)
        return SharedMarks, (self._count, self._marks)


def _shared_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros that forked processes share. Unlike `share_memory_`, this takes no room in /dev/shm."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _sendable(values: Tensor) -> Tensor:
    """These values in memory that a process which is being started can map."""
    return values if values.is_shared() else values.clone().share_memory_()
