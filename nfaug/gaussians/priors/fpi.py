"""The prior "fpi": class gaussians separated by the fixed-point iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointConfig
from ..fixed_point.solver import solve
from .base import Prior, solve_record

__all__ = ["FPI"]


def _solve(
    means: Tensor,
    variances: Tensor,
    settings: FixedPointConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    result = solve(means, variances, settings)
    return result.means, result.variances, solve_record(settings, result)


FPI = Prior(_solve, option="fixed_point", defaults=FixedPointConfig(), min_classes=2)
