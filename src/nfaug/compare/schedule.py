"""Which classifier is trained next, so that the time is used and the table says something."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from .report.figures import LEAST_SEEDS
from .rows import Row

__all__ = ["kept_rows", "next_cell"]

_GOOD = 5  # seeds of each row that are wanted before more rows are
_FROZEN_SHARE = 0.3  # of the time, that frozen features may take if networks are trained, too

Seconds = Mapping[tuple[Row, int], float | None]


def next_cell(
    rows: Sequence[Row], cells: Seconds, seeds: int, left: float, processes: int, total: float
) -> tuple[Row, int] | None:
    """The row and the seed to compute next; None if nothing fits into the time.

    First the first row, so that something is seen at once. Then frozen features, which are cheap,
    for at most 30% of the time. Then networks, seed by seed: of as many rows as can get five seeds,
    or else three.

    Args:
        rows: All rows, in the order of cost.
        cells: The seconds of each cell that is computed, None while it is.
        seeds: The most seeds.
        left: Seconds that are left.
        processes: How many cells are computed at once.
        total: Seconds of the whole comparison.
    """
    first = (rows[0], 0)
    if first not in cells:
        return first
    trained = [row for row in rows if not row.frozen]
    spent = sum(seconds or 0 for (row, _), seconds in cells.items() if row.frozen)
    for seed in range(seeds):
        for row in rows:
            if not row.frozen or (row, seed) in cells:
                continue
            cost = expected_seconds(row, cells)
            within_share = not trained or spent + cost <= _FROZEN_SHARE * total * processes
            if cost <= left and (within_share or seed == 0):
                return row, seed
    kept = kept_rows(trained, cells, seeds, left * processes)
    for seed in range(seeds):
        for row in trained:
            if row not in kept or (row, seed) in cells:
                continue
            if expected_seconds(row, cells) <= left:
                return row, seed
    return None


def kept_rows(trained: Sequence[Row], cells: Seconds, seeds: int, capacity: float) -> Sequence[Row]:
    """The rows of trained networks that get enough seeds within `capacity` seconds of a process.

    Five seeds of as many rows as can have them, down to three rows; else three seeds. The row
    without an augmentation stays longest, then NFA alone, then its first rival.
    """
    known = any(s is not None for (row, _), s in cells.items() if not row.frozen)
    by_worth = sorted(trained, key=_worth)
    if not known:  # a cell tells what one costs
        return by_worth[:1]
    for wanted, fewest in ((min(_GOOD, seeds), 3), (min(LEAST_SEEDS, seeds), 2)):
        for count in range(len(by_worth), fewest - 1, -1):
            needed = 0.0
            for row in by_worth[:count]:
                done = sum(1 for other, _ in cells if other == row)
                needed += max(0, wanted - done) * expected_seconds(row, cells)
            if needed <= capacity:
                return by_worth[:count]
    return by_worth[:2]


def _worth(row: Row) -> tuple[bool, bool, bool]:
    """A key that sorts rows from those that stay to those that are left out first."""
    both = bool(row.flow) and bool(row.policy)
    return (both, bool(row.policy), bool(row.flow))


def expected_seconds(row: Row, cells: Seconds) -> float:
    """The mean of a row's cells, or of all of its kind; 0 if none is known."""
    own = []
    of_kind = []
    for (other, _), seconds in cells.items():
        if seconds is None or other.frozen != row.frozen:
            continue
        of_kind.append(seconds)
        if other == row:
            own.append(seconds)
    known = own or of_kind
    return statistics.fmean(known) if known else 0.0
