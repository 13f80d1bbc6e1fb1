"""The prior "single": one standard gaussian for all images, without labels."""

from __future__ import annotations

import torch

from .base import Prior

__all__ = ["SINGLE"]

SINGLE = Prior(
    lambda means, variances, settings, generator: (
        torch.zeros_like(means),
        torch.ones_like(means),
        {},
    ),
    labelled=False,
    needs_latents=False,
)
