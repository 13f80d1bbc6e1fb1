"""What to do, from the figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..rows import Row
from .figures import LEAST_SEEDS, Cell, Gain, gain_of, is_clear

__all__ = ["Finding", "finding_of", "gain_between", "limited_by_images", "seeds_needed"]

_NO_EFFECT = 1.0  # points of accuracy that matter to nobody

_MOST_SEEDS = 1000

CellsOfRows = Mapping[Row, Mapping[int, Cell]]


class Finding(NamedTuple):
    """What the figures say.

    Attributes:
        best: The row to use; the first one if no other is clearly better.
        gain: Of the best row over the first or, if that is the best, the largest gain.
        largest: The row that this gain is of.
        compared: How many rows it is the largest gain of.
        no_effect: Whether every row's interval ends below one point.
    """

    best: Row
    gain: Gain
    largest: Row
    compared: int
    no_effect: bool


def gain_between(cells: CellsOfRows, ours: Row, other: Row) -> Gain:
    """The gain of a row over another one, in the seeds that both have."""
    seeds = sorted(set(cells[ours]) & set(cells[other]))
    return gain_of([cells[ours][seed] for seed in seeds], [cells[other][seed] for seed in seeds])


def finding_of(rows: Sequence[Row], cells: CellsOfRows, look: int) -> Finding | None:
    """The cheapest row that the best one is not clearly above; None if too little is known.

    The best row is the one with the largest gain over the first of those whose gain is clear. Gains
    are clear if they are above zero at the level of this look, divided by the number of rows that
    are compared: whatever the rows do, a row without effect is advised in at most 5% of cases.

    Args:
        rows: All rows, in the order of cost.
        cells: The cells of each row by seed.
        look: The number of this look at the results, from 1.
    """
    base = rows[0]
    gains: dict[Row, Gain] = {}
    for row in rows[1:]:
        shared = set(cells.get(row, {})) & set(cells[base])
        if len(shared) >= LEAST_SEEDS:
            gains[row] = gain_between(cells, row, base)
    if not gains:
        return None
    count = len(gains)
    largest = max(gains, key=lambda row: gains[row].mean)
    no_effect = all(gain.mean + gain.half < _NO_EFFECT for gain in gains.values())
    clear = [row for row in gains if is_clear(gains[row], count, look)]
    if not clear:
        return Finding(base, gains[largest], largest, count, no_effect)
    leader = max(clear, key=lambda row: gains[row].mean)
    equals = []
    for row in clear:
        if row == leader or not is_clear(gain_between(cells, leader, row), count, look):
            equals.append(row)
    best = min(equals, key=lambda row: (_complexity(row), -gains[row].mean))
    return Finding(best, gains[best], best, count, no_effect=False)


def _complexity(row: Row) -> tuple[bool, int]:
    """What a row costs a user: training a network, then each augmentation."""
    return (not row.frozen, bool(row.flow) + bool(row.policy))


def limited_by_images(gain: Gain) -> bool:
    """Whether more of the width of a gain's interval comes from images than from seeds."""
    return gain.images > gain.seeds


def seeds_needed(gain: Gain, rivals: int, look: int) -> int:
    """The number of seeds with which a gain of this size would be clear at the next look.

    The error over images stays what it is; that over seeds falls with the root of their number.
    """
    count = gain.number + 1
    while count < _MOST_SEEDS:
        error = gain.seed_error * math.sqrt(gain.number / count)
        if is_clear(gain._replace(seed_error=error, number=count), rivals, look + 1):
            break
        count = math.ceil(count * 1.1)
    return min(count, _MOST_SEEDS)
