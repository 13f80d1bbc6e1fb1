"""What to do, from the figures of a comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .figures import LEAST_IMAGES, LEAST_SEEDS, Cell, Gain, gain_of, is_clear
from .rows import Row

NO_EFFECT = 1.0  # points of accuracy that matter to nobody
_LOST = 0.5  # of what a row usually learns; a training that lost more has collapsed
_NOISE = 4.0  # standard errors of an accuracy, below which a loss may be chance

CellsOfRows = Mapping[Row, Mapping[int, Cell]]


class Finding(NamedTuple):
    """What the figures say.

    Attributes:
        best: The row to use; the first one if no other is clearly better.
        gain: Of the best row over the first or, if that is the best, the largest gain.
        largest: The row that this gain is of.
        no_effect: Whether every row's interval ends below one point.
    """

    best: Row
    gain: Gain
    largest: Row
    no_effect: bool


def gain_between(cells: CellsOfRows, ours: Row, other: Row) -> Gain:
    """The gain of a row over another one, in the seeds that both have."""
    seeds = sorted(set(cells[ours]) & set(cells[other]))
    return gain_of([cells[ours][seed] for seed in seeds], [cells[other][seed] for seed in seeds])


def finding_of(rows: Sequence[Row], cells: CellsOfRows, planned: int) -> Finding | None:
    """The simplest row that the best one is not clearly above.

    The best row is the one with the largest gain over the first of those whose gain is clear. Gains
    are clear if their 95% interval is above zero, where the 2.5% below it are divided by the number
    of rows that were planned: a row without effect is advised in about 2.5% of comparisons.

    Args:
        rows: The rows that have cells, in the order of cost.
        cells: The cells of each row by seed.
        planned: The number of rows, but for the first, that were planned. Rows that were left out
            for want of time count.

    Returns:
        The finding; None for fewer than three seeds or 30 test images.
    """
    base = rows[0]
    seeds = cells[base]
    images = len(next(iter(seeds.values())).right)
    if len(rows) < 2 or len(seeds) < LEAST_SEEDS or images < LEAST_IMAGES:
        return None
    gains = {row: gain_between(cells, row, base) for row in rows[1:]}
    largest = max(gains, key=lambda row: gains[row].mean)
    no_effect = all(gain.mean + gain.half < NO_EFFECT for gain in gains.values())
    clear = [row for row in gains if is_clear(gains[row], planned)]
    if not clear:
        return Finding(base, gains[largest], largest, no_effect)
    leader = max(clear, key=lambda row: gains[row].mean)
    equals = []
    for row in clear:
        if row == leader or not is_clear(gain_between(cells, leader, row), planned):
            equals.append(row)
    best = min(equals, key=lambda row: (_complexity(row), -gains[row].mean))
    return Finding(best, gains[best], best, no_effect=False)


def _complexity(row: Row) -> tuple[bool, int]:
    """What a row costs a user: training a network, then each augmentation."""
    return (not row.frozen, bool(row.flow) + bool(row.policy))


def collapsed(cells: Mapping[int, Cell], classes: int) -> dict[int, float]:
    """The seeds in which a row collapsed, with their accuracy in per cent.

    There it lost more than half of what it reaches above chance in the median of its seeds, and
    more than the number of images explains.
    """
    if len(cells) < LEAST_SEEDS:
        return {}
    chance = 100 / classes
    usual = statistics.median(cell.accuracy for cell in cells.values())
    images = len(next(iter(cells.values())).right)
    noise = math.sqrt(usual * (100 - usual) / images)
    limit = min(chance + _LOST * (usual - chance), usual - _NOISE * noise)
    found = {}
    for seed, cell in sorted(cells.items()):
        if cell.accuracy < limit and usual > chance:
            found[seed] = cell.accuracy
    return found
