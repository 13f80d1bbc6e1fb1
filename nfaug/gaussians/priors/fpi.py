"""The prior "fpi": class gaussians separated by the fixed-point iteration."""

from __future__ import annotations

from ..fixed_point.config import FixedPointConfig
from ..fixed_point.solver import solve
from .base import Prior, solution

__all__ = ["FPI"]

FPI = Prior(
    lambda means, variances, settings, generator: solution(
        settings, solve(means, variances, settings)
    ),
    option="fixed_point",
    defaults=FixedPointConfig(),
    min_classes=2,
)
