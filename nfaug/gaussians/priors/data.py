"""The prior "data": the class means and variances of the latents (Baseline 1)."""

from __future__ import annotations

from torch import Tensor

from ..fixed_point.solver import check_gaussians
from .base import Prior

__all__ = ["DATA", "data_gaussians"]


def data_gaussians(data_means: Tensor, data_variances: Tensor) -> tuple[Tensor, Tensor]:
    """Check and copy the data's class means and variances, in float64.

    They are the maximum-likelihood solution, and the fixed point at weight 0.

    Raises:
        ValueError: If a value is not finite or a variance is not positive.
    """
    means, variances = check_gaussians(data_means, data_variances, "data")
    return means.clone(), variances.clone()


DATA = Prior(lambda means, variances, settings, generator: (*data_gaussians(means, variances), {}))
