"""Priors in one step: "fpi", "data", "random" and "single"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointConfig
from ..fixed_point.solver import as_double, solve
from .base import Prior, Solution, solution

__all__ = ["DATA", "FPI", "RANDOM", "SINGLE"]


def _data(means: Tensor, variances: Tensor, *_: object) -> Solution:
    """The data's means and variances (Baseline 1): the fixed point at weight 0."""
    return (*as_double(means, variances), {})


def _random(means: Tensor, _: Tensor, scale: float, generator: torch.Generator | None) -> Solution:
    """Means from N(0, scale^2) and identity covariances.

    As in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025), only the flow separates the classes.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    device = None if generator is None else generator.device
    noise = torch.randn(means.shape, generator=generator, dtype=torch.float64, device=device)
    return scale * noise, torch.ones_like(noise), {"scale": scale}


FPI = Prior(
    lambda means, variances, settings, _: solution(settings, solve(means, variances, settings)),
    option="fixed_point",
    defaults=FixedPointConfig(),
    min_classes=2,
)
DATA = Prior(_data)
RANDOM = Prior(_random, option="random_scale", defaults=1.0, needs_latents=False)
SINGLE = Prior(
    lambda means, *_: (torch.zeros_like(means), torch.ones_like(means), {}),
    labelled=False,
    needs_latents=False,
)
