"""The prior "random": fixed random means and identity covariances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Prior

__all__ = ["RANDOM", "random_gaussians"]


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


RANDOM = Prior(
    lambda means, variances, settings, generator: (
        *random_gaussians(*means.shape, scale=settings, generator=generator),
        {"scale": settings},
    ),
    option="random_scale",
    defaults=1.0,
    needs_latents=False,
)
