"""The public name of `nfaug.gaussians.fixed_point`."""

from ..gaussians.fixed_point import (
    DIVERGENCE_RATIO,
    KL_FLOOR,
    REFERENCE_WEIGHT,
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
    class_kernel,
    mean_update,
    objective,
    pairwise_kl,
    proposition1_update,
    released_update,
    solve,
    solve_dense,
)

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
    "solve_dense",
]
