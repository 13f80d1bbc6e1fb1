"""Priors in one step: "fpi", "data", "random" and "single"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointConfig
from ..fixed_point.solver import check_gaussians, solve
from .base import Prior, Solution, solution

__all__ = ["DATA", "FPI", "RANDOM", "SINGLE", "data_gaussians", "random_gaussians"]


def data_gaussians(data_means: Tensor, data_variances: Tensor) -> tuple[Tensor, Tensor]:
    """Check and copy the data's class means and variances, in float64 (Baseline 1).

    They are the maximum-likelihood solution, and the fixed point at weight 0.

    Raises:
        ValueError: If a value is not finite or a variance is not positive.
    """
    means, variances = check_gaussians(data_means, data_variances, "data")
    return means.clone(), variances.clone()


def random_gaussians(
    num_classes: int, dim: int, *, scale: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw means from N(0, scale^2); covariances are identities. Both (K, d), float64.

    As in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025), only the flow separates the classes.

    Raises:
        ValueError: If a size is below 1 or the scale is not positive.
    """
    if num_classes < 1 or dim < 1:
        raise ValueError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    device = None if generator is None else generator.device
    noise = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64, device=device)
    return scale * noise, torch.ones_like(noise)


def _random(means: Tensor, _: Tensor, scale: float, generator: torch.Generator | None) -> Solution:
    drawn = random_gaussians(*means.shape, scale=scale, generator=generator)
    return (*drawn, {"scale": scale})


FPI = Prior(
    lambda means, variances, settings, _: solution(settings, solve(means, variances, settings)),
    option="fixed_point",
    defaults=FixedPointConfig(),
    min_classes=2,
)
DATA = Prior(lambda means, variances, *_: (*data_gaussians(means, variances), {}))
RANDOM = Prior(_random, option="random_scale", defaults=1.0, needs_latents=False)
SINGLE = Prior(
    lambda means, *_: (torch.zeros_like(means), torch.ones_like(means), {}),
    labelled=False,
    needs_latents=False,
)
