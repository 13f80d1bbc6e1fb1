"""Accuracies of the study by seed, and gains within seeds."""

from __future__ import annotations

import base64
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nfaug.training.evaluation.intervals import Interval, interval

from .arms import ARMS
from .bases import GEOMETRIC, base_parts
from .cells import Cell
from .flows import FLOWS

__all__ = [
    "Gain",
    "Groups",
    "Outcome",
    "Rows",
    "gain_over_geometry",
    "gain_over_none",
    "gains",
    "geometry",
    "groups",
    "order",
    "packed",
    "preferred",
    "unpacked",
]

Rows = Mapping[Cell, Mapping[str, str]]


class Outcome(NamedTuple):
    """What a cell gave: accuracy in per cent and, of reported cells, which images were right."""

    accuracy: float
    right: NDArray[np.bool_] | None = None


Groups = Mapping[Cell, Mapping[int, Outcome]]  # a cell with seed 0 -> outcomes by seed


@dataclass(frozen=True)
class Gain(Interval):
    """A mean difference with the half-width of its interval over seeds and over test images.

    Attributes:
        images: Half-width of the 95% interval over draws of test images, beyond what `half` holds;
            None where it is not known which images were right.
    """

    images: float | None = None

    def shown(self, sign: str) -> str:
        """Mean, half-width over seeds and, where it is known, half-width over test images.

        A single seed says nothing about seeds: "?" stands for that half-width.
        """
        if self.images is None:
            return super().shown(sign)
        half = "?" if self.seeds == 1 else f"{self.half:.1f}"
        return f"{self.mean:{sign}.1f} ± {half} ± {self.images:.1f}"

    @property
    def total(self) -> float:
        """Half-width over seeds and test images."""
        return math.hypot(self.half, self.images or 0.0)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero: three seeds or more, five where it is over images.

        With fewer seeds the variance over test images is too uncertain: it is a difference of two
        estimates.
        """
        return self.seeds >= (3 if self.images is None else 5) and abs(self.mean) > self.total


def groups(rows: Rows) -> dict[Cell, dict[int, Outcome]]:
    """Outcomes by seed of the cells that differ in their seed alone; the key has seed 0.

    Raises:
        ValueError: The cells of a data set were made with different versions of one flow.
    """
    found: dict[Cell, dict[int, Outcome]] = defaultdict(dict)
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell, row in rows.items():
        key = replace(cell, seed=0)
        found[key][cell.seed] = Outcome(float(row["accuracy"]), unpacked(row))
        kind = FLOWS.get(cell.flow)
        if kind is not None and not kind.per_seed and row["flow_sha"]:
            versions[cell.data, cell.flow].add(row["flow_sha"])
    for (data, flow), several in versions.items():
        if len(several) > 1:
            raise ValueError(
                f"{data} has rows of several versions of the flow {flow!r}, "
                f"{', '.join(sorted(several))}; run them again in a new CSV"
            )
    return dict(found)


def preferred(
    found: Groups,
    place: Callable[[Cell], Hashable] = lambda key: replace(key, settings=""),
    every: Groups | None = None,
) -> list[Cell]:
    """One cell of those with the same `place`, the settings of an arm, flow and base by default.

    It has most seeds, then the highest mean on held-out images, of the base alone and of the arm,
    if all of them have the same held-out seeds. Then the mean on the images at hand decides.

    Args:
        found: The cells to choose from.
        place: What the cells to choose among have in common.
        every: All cells, also those on held-out images.
    """
    several: dict[Hashable, list[Cell]] = defaultdict(list)
    for key in found:
        several[place(key)].append(key)
    best = []
    for keys in several.values():
        most = max(len(found[key]) for key in keys)
        left = [key for key in keys if len(found[key]) == most]
        for arm in (_base_alone, _itself):
            known = [(every or {}).get(replace(arm(key), split="tuning"), {}) for key in left]
            if known[0] and all(each.keys() == known[0].keys() for each in known):
                highest = max(map(_mean, known))
                left = [
                    key for key, each in zip(left, known, strict=True) if _mean(each) == highest
                ]
        best.append(max(left, key=lambda key: _mean(found[key])))
    return sorted(best, key=order)


def _base_alone(key: Cell) -> Cell:
    return replace(key, arm="none", flow="-", settings="")


def _itself(key: Cell) -> Cell:
    return key


def _mean(values: Mapping[int, Outcome]) -> float:
    return statistics.fmean(each.accuracy for each in values.values())


def packed(right: Tensor) -> str:
    """Which images were right, (N,) bool, as text: base64 of eight images a byte."""
    return base64.b64encode(np.packbits(right.numpy()).tobytes()).decode("ascii")


def unpacked(row: Mapping[str, str]) -> NDArray[np.bool_] | None:
    """The inverse of `packed`, of a row of the CSV; None where the row has none."""
    if not row.get("right"):
        return None
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row["right"]), np.uint8))
    return bits[: int(row["tested"])].astype(bool)


def gains(arm: Mapping[int, Outcome], reference: Mapping[int, Outcome]) -> Gain | None:
    """The mean difference over the seeds that both have; None without such a seed.

    The interval over seeds is Student's for the differences d_s. Over the n images it is
    1.96 sqrt(max(0, s^2(d_i) - e^2 / S) / n), with d_i the difference of test image i, averaged
    over the S seeds, and e^2 the variance that neither seed nor image explains (a two-way layout
    without replication). d_s has that part as well: it is counted once. Images weigh alike, where
    the accuracy averages over classes.
    """
    both = sorted(set(arm) & set(reference))
    if not both:
        return None
    over = interval([arm[seed].accuracy - reference[seed].accuracy for seed in both])
    differences = [_difference(arm[seed], reference[seed]) for seed in both]
    if any(each is None for each in differences):
        return Gain(over.mean, over.half, over.seeds)
    table = np.stack([each for each in differences if each is not None])  # (S, n)
    return Gain(over.mean, over.half, over.seeds, 100 * 1.96 * math.sqrt(_image_variance(table)))


def _image_variance(table: NDArray[np.float64]) -> float:
    """The part of the variance of a mean over (S seeds, n images) that new images would change."""
    seeds, images = table.shape
    by_image = table.mean(0)
    variance = float(by_image.var(ddof=1))
    if seeds > 1:
        residual = table - by_image - table.mean(1, keepdims=True) + table.mean()
        variance -= float((residual**2).sum()) / ((seeds - 1) * (images - 1)) / seeds
    return max(0.0, variance) / images


def _difference(one: Outcome, other: Outcome) -> NDArray[np.float64] | None:
    if one.right is None or other.right is None:
        return None
    return one.right.astype(float) - other.right.astype(float)


def gain_over_none(found: Groups, key: Cell) -> Gain | None:
    """The gain of an arm over `none` with the same base."""
    return gains(found[key], found.get(_base_alone(key), {}))


def geometry(base: str) -> str:
    """The part of a base that moves images: "flip+crop:4" of "flip+crop:4+randaugment"."""
    moving = ("flip", *GEOMETRIC)
    words = zip(base_parts(base), base.split("+"), strict=True)
    return "+".join(word for part, word in words if part.name in moving) or "none"


def gain_over_geometry(found: Groups, key: Cell) -> Gain | None:
    """The gain of everything that an arm and its base do beyond flip and crop."""
    moved = replace(_base_alone(key), base=geometry(key.base))
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
