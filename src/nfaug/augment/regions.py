"""Mixing by region: masks over positions of the latents, in the place of weights of PCA axes.

The idea of choosing between two images of a class by region is that of ChimeraMix (Reinders,
Schubert & Rosenhahn 2022, arXiv:2202.11616), which trains a network for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .pixels import resize

_GRID = 4  # regions of a quarter of the image: parts of an object, and the object or what is around
_SIDE = 32  # of the masks that are drawn; those of latents are resized from it
_CONTRAST = 4.0  # two thirds of a mask are exactly 0 or 1, and borders a seventh of the side wide


def draw_masks(
    rng: np.random.Generator, count: int, *, alpha: float, strength: float
) -> np.ndarray:
    """Smooth masks w = min(1, strength * m) in [0, 1], float32 of shape (count, 32, 32).

        m = clamp(1/2 + 4 (u - 1/2), 0, 1)

    with u the bicubic interpolation of a grid of 4 x 4 draws from Beta(alpha, alpha). With a
    strength of 1 a mask covers half of the image on average. One that covered little or nearly all
    of it would give the image or its partner again.
    """
    coarse = rng.beta(alpha, alpha, (count, 1, _GRID, _GRID)).astype(np.float32)
    u = F.interpolate(torch.from_numpy(coarse), (_SIDE, _SIDE), mode="bicubic")[:, 0]
    mask = (0.5 + _CONTRAST * (u - 0.5)).clamp(0, 1)
    return (strength * mask).clamp(max=1).numpy()


def mix_by_region(z1: Tensor, z2: Tensor, masks: Tensor) -> Tensor:
    """Latents z1 + w * (z2 - z1) of shape (n, C, H, W), with masks (n, h, w) resized to (H, W).

    They are written over z2.
    """
    resized = resize(masks[:, None], (z1.shape[-2], z1.shape[-1]))
    return z2.sub_(z1).mul_(resized).add_(z1)
