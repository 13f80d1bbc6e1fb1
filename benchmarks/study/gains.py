"""Accuracies of the study by seed, and gains within seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from nfaug.training.evaluation.intervals import Interval, interval

from .arms import ARMS
from .bases import GEOMETRIC, base_parts
from .cells import Cell
from .flows import FLOWS

__all__ = [
    "Groups",
    "Rows",
    "gain_over_geometry",
    "gain_over_none",
    "gains",
    "geometry",
    "groups",
    "order",
]

Rows = Mapping[Cell, Mapping[str, str]]
Groups = Mapping[Cell, Mapping[int, float]]  # a cell with seed 0 -> accuracy by seed


def groups(rows: Rows) -> dict[Cell, dict[int, float]]:
    """Accuracy by seed of the cells that differ in their seed alone; the key has seed 0."""
    found: dict[Cell, dict[int, float]] = defaultdict(dict)
    for cell, row in rows.items():
        found[replace(cell, seed=0)][cell.seed] = float(row["accuracy"])
    return dict(found)


def gains(arm: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """The mean difference over the seeds that both have; None without such a seed."""
    both = sorted(set(arm) & set(reference))
    return interval([arm[seed] - reference[seed] for seed in both]) if both else None


def gain_over_none(found: Groups, key: Cell) -> Interval | None:
    """The gain of an arm over `none` with the same base."""
    bare = replace(key, arm="none", flow="-", settings="")
    return gains(found[key], found.get(bare, {}))


def geometry(base: str) -> str:
    """The part of a base that moves images: "flip+crop:4" of "flip+crop:4+randaugment"."""
    moving = ("flip", *GEOMETRIC)
    words = zip(base_parts(base), base.split("+"), strict=True)
    return "+".join(word for part, word in words if part.name in moving) or "none"


def gain_over_geometry(found: Groups, key: Cell) -> Interval | None:
    """The gain of everything that an arm and its base do beyond moving images."""
    moved = replace(key, arm="none", flow="-", settings="", base=geometry(key.base))
    return None if key == moved else gains(found[key], found.get(moved, {}))


def order(key: Cell) -> tuple[object, ...]:
    """What rows of a table are sorted by."""
    return (
        key.base != "none",
        key.base,
        list(ARMS).index(key.arm),
        ["-", *FLOWS].index(key.flow),
        key.settings,
    )
