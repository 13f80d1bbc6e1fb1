"""How many whole seeds fit into the time, and which rows are left out if it is short."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .figures import LEAST_SEEDS
from .rows import Row

__all__ = ["Plan", "plan_of"]


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
        a_seed = sum(seconds[one] for one in kept) / processes
        # At the end processes wait for the last job (Graham's bound).
        end = _longest_job(seconds, kept) * (1 - 1 / processes)
        fit = max(1, 1 + math.floor((60 * minutes - spent - end) / a_seed))
        if fit >= wanted:
            left_out = [row.name for row in seconds if row not in kept]
            names = [row.name for row in kept]
            return Plan(names, left_out, min(most, fit), needed, minutes)
        at_least = math.ceil((spent + (wanted - 1) * a_seed + end) / 60 + 0.1)
        needed = needed or at_least
    raise TimeoutError(
        f"{wanted} seeds do not fit into {minutes:g} minutes, even if rows are left out: one takes "
        f"{a_seed:.0f} seconds. The same command goes on with --minutes {needed}, in which all "
        f"rows fit, or --minutes {at_least}"
    )


def _longest_job(seconds: Mapping[Row, float], rows: Sequence[Row]) -> float:
    """The seconds of the longest job: rows of the same flow are one."""
    jobs: dict[object, float] = {}
    for row in rows:
        job = row.flow or row
        jobs[job] = jobs.get(job, 0.0) + seconds[row]
    return max(jobs.values())


def _order_of_leaving(rows: Sequence[Row]) -> list[Row]:
    """The rows that may be left out, those that are left out first at the start.

    Not the first row, which the others gain over.
    """
    both = [row for row in reversed(rows) if row.flow and row.policy]
    alone = [row for row in reversed(rows) if row.policy and not row.flow]
    return [*both, *alone]
