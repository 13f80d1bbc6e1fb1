"""Run numbered cases of an attack, within limits, and count their outcomes."""

from __future__ import annotations

import collections
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tools.checkpoint import MOST_BYTES, MOST_SECONDS, limit_memory

__all__ = ["run_cases"]

MOST_WAITING = 60  # seconds by the clock, for a case that waits and uses no processor


class Hang(BaseException):
    """A case that does not end."""


def _on_alarm(*_: object) -> None:
    raise Hang(f"waited {MOST_WAITING} s")


def run_cases(
    folder: Path,
    numbers: Iterable[int],
    case: Callable[[Path, int], str],
    *,
    limited: bool = True,
) -> dict[str, Any]:
    """Run cases in this process; return the counts of their outcomes, and what is wrong.

    Wrong are cases that raise, wait for a minute or, if `limited`, take 5 s of the processor or
    1 GiB of memory.
    """
    if limited:
        limit_memory()
    signal.signal(signal.SIGALRM, _on_alarm)
    before = _memory()
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    for number in numbers:
        start = _processor()
        signal.alarm(MOST_WAITING if limited else 0)
        try:
            outcomes[case(folder, number)] += 1
        except (Exception, Hang) as error:
            wrong.append(f"case {number}: {type(error).__name__}: {error}"[:500])
        signal.alarm(0)
        seconds = _processor() - start
        if limited and seconds > MOST_SECONDS:
            wrong.append(f"case {number}: {seconds:.1f} s of the processor")
    grown = _memory() - before
    if limited and grown > MOST_BYTES:
        wrong.append(f"{grown} bytes of memory")
    return {"outcomes": outcomes, "wrong": wrong}


def _processor() -> float:
    """Processor time in seconds of this process and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _memory() -> int:
    """The largest number of bytes that this process or a child that has ended had in memory."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)
