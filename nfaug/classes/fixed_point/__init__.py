"""The fixed-point iteration for class gaussians (Enescu & Sahbi 2024, Eqs. 5-8)."""

from ..gaussians import pairwise_kl
from .config import (
    REFERENCE_WEIGHT,
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
)
from .rules import (
    KL_FLOOR,
    class_kernel,
    mean_update,
    objective,
    proposition1_update,
    released_update,
)
from .solver import DIVERGENCE_RATIO, solve

__all__ = [
    "DIVERGENCE_RATIO",
    "KL_FLOOR",
    "REFERENCE_WEIGHT",
    "FixedPointConfig",
    "FixedPointDivergence",
    "FixedPointResult",
    "FixedPointStep",
    "class_kernel",
    "mean_update",
    "objective",
    "pairwise_kl",
    "proposition1_update",
    "released_update",
    "solve",
]
