"""The public name of `nfaug.gaussians.fixed_point`."""

from ..gaussians.fixed_point.config import (
    REFERENCE_WEIGHT,
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
)
from ..gaussians.fixed_point.rules import (
    KL_FLOOR,
    class_kernel,
    mean_update,
    objective,
    proposition1_update,
    released_update,
)
from ..gaussians.fixed_point.solver import DIVERGENCE_RATIO, solve
from ..gaussians.gaussians import pairwise_kl

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
