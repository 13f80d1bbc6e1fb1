"""Frozen features: gaussians of the classes on what a pretrained network computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfaug.io.device import pick_device

from .classifier import moments_of, timm_model
from .config import CompareConfig

__all__ = ["FrozenNetwork", "classify", "input_size"]

_BATCH = 32
SHRINKAGE = 0.5  # of the covariance towards a multiple of the identity

Features = NDArray[np.float32]


def input_size(config: CompareConfig) -> tuple[int, int]:
    """The side that a network was pretrained with, and the side that images are read at.

    The central part of what is read goes into the network, as timm's `crop_pct` says.
    """
    import timm

    pretrained = timm.models.get_pretrained_cfg(config.network)
    if pretrained is None:
        raise ValueError(f"timm knows no pretrained weights of {config.network!r}")
    side = pretrained.input_size[-1]
    return side, round(side / pretrained.crop_pct)


class FrozenNetwork:
    """Pooled features of a pretrained timm model for images of (height, width)."""

    def __init__(self, config: CompareConfig, channels: int, size: tuple[int, int]) -> None:
        self.size: tuple[int, int] = size
        self.device: torch.device = pick_device(config.device)
        self.model: Any = timm_model(config, (channels, *size), 0)
        self.model.eval().to(self.device, memory_format=torch.channels_last)
        self.moments: Tensor = moments_of(self.model, channels).to(self.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Features (N, D) of the central part of uint8 images (N, C, H, W)."""
        mean, std = self.moments
        height, width = self.size
        top = (images.shape[2] - height) // 2
        left = (images.shape[3] - width) // 2
        found = []
        for batch in images.split(_BATCH):
            inner = batch[..., top : top + height, left : left + width]
            inner = inner.to(self.device, memory_format=torch.channels_last)
            found.append(self.model((inner.float() / 255 - mean) / std).cpu())
        features: Features = torch.cat(found).numpy()
        return features


def classify(features: Features, labels: NDArray[np.int64], judged: Features) -> NDArray[np.int64]:
    """The classes of the features (M, D) `judged`, from labelled features (N, D).

    One gaussian a class, N(m_y, S), with the covariance S that all classes share, shrunken halfway
    to a multiple of the identity: linear discriminant analysis (arXiv:2402.04087 has the same for
    CLIP).
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    model.fit(features.astype(np.float64), labels)
    guesses: NDArray[np.int64] = model.predict(judged.astype(np.float64))
    return guesses
