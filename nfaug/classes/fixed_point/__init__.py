"""The fixed-point iteration for class gaussians (Enescu & Sahbi 2024, Eqs. 5-8)."""

from .config import FixedPointConfig, FixedPointDivergence, FixedPointResult, FixedPointStep
from .rules import (
    class_kernel,
    mean_update,
    objective,
    proposition1_update,
    released_update,
)
from .solver import solve

__all__ = [
    "FixedPointConfig",
    "FixedPointDivergence",
    "FixedPointResult",
    "FixedPointStep",
    "class_kernel",
    "mean_update",
    "objective",
    "proposition1_update",
    "released_update",
    "solve",
]
