"""How many whole seeds fit into the time, and which rows are left out if it is short."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .figures import LEAST_SEEDS
from .rows import Row


class Plan(NamedTuple):
    """What is trained after the first whole seed.

    Attributes:
        rows: The names of the rows that every seed has.
        left_out: Those of the rows for which there is no time.
        seeds: The number of whole seeds, the first included.
        needed: Minutes in which three seeds of all rows would fit; 0 if they do fit.
        minutes: The minutes that this was planned for.
    """

    rows: list[str]
    left_out: list[str]
    seeds: int
    needed: int
    minutes: float


def plan_of(
    seconds: Mapping[Row, float], *, spent: float, minutes: float, most: int, processes: int
) -> Plan:
    """The rows and the number of whole seeds that fit.

    If fewer than three seeds of all rows fit, rows are left out: first NFA before another policy,
    then policies alone, the last of the table first. NFA alone and rows without an augmentation
    stay.

    Args:
        seconds: What each row took in the first seed, on one process.
        spent: Seconds of the comparison so far.
        minutes: Minutes of the whole comparison.
        most: The most seeds.
        processes: How many classifiers are trained at once.

    Raises:
        TimeoutError: Three seeds do not fit, whatever is left out.
    """
    wanted = min(LEAST_SEEDS, most)
    kept = list(seconds)
    needed = 0
    for row in [None, *_order_of_leaving(list(seconds)[1:])]:
        if row is not None:
            kept.remove(row)
        ends = _ends_of_seeds({row: seconds[row] for row in kept}, most - 1, processes)
        fit = 1 + sum(1 for end in ends if spent + end <= 60 * minutes)
        if fit >= wanted:
            left_out = [row.name for row in seconds if row not in kept]
            names = [row.name for row in kept]
            return Plan(names, left_out, min(most, fit), needed, minutes)
        at_least = math.ceil((spent + ends[wanted - 2]) / 60 + 0.1)
        needed = needed or at_least
    raise TimeoutError(
        f"{wanted} seeds do not fit into {minutes:g} minutes, even if rows are left out: one takes "
        f"{ends[0]:.0f} seconds. The same command goes on with --minutes {needed}, in which all "
        f"rows fit, or --minutes {at_least}"
    )


def _ends_of_seeds(seconds: Mapping[Row, float], seeds: int, processes: int) -> list[float]:
    """When each of so many further seeds ends, in seconds, if idle processes take the next job.

    The rows of a flow are one job, and come first in a seed.
    """
    jobs: dict[object, float] = {}
    for row, cost in seconds.items():
        jobs[row.flow or row] = jobs.get(row.flow or row, 0.0) + cost
    ordered = sorted(jobs, key=lambda job: not isinstance(job, str))
    free_at = [0.0] * processes
    ends = []
    for _ in range(seeds):
        for job in ordered:
            heapq.heapreplace(free_at, free_at[0] + jobs[job])
        ends.append(max(free_at))
    return ends


def _order_of_leaving(rows: Sequence[Row]) -> list[Row]:
    """The rows that may be left out, those that are left out first at the start.

    Not the first row, which the others gain over.
    """
    both = [row for row in reversed(rows) if row.flow and row.policy]
    alone = [row for row in reversed(rows) if row.policy and not row.flow]
    return [*both, *alone]
