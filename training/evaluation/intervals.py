"""Confidence intervals of a mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "interval"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its 95% confidence interval."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return self.shown("")

    def shown(self, sign: str) -> str:
        """Mean and half-width, or the value alone for a single seed. `sign` may be "+"."""
        half = f" ± {self.half:.1f}" if self.seeds > 1 else ""
        return f"{self.mean:{sign}.1f}{half}"

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half


def interval(values: Sequence[float]) -> Interval:
    """Student's interval t_(n-1) s / sqrt(n); infinitely wide for a single value.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    from scipy.stats import t as student

    count = len(values)
    if count == 1:
        return Interval(values[0], math.inf, 1)
    reach = float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Interval(statistics.fmean(values), reach, count)
