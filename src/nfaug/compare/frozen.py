"""Frozen features: logistic regression on what a pretrained network computes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfaug.run.device import pick_device

from .classifier import moments_of, timm_model
from .config import CompareConfig

#: Inverse strengths of the L2 penalty, of which cross-validation chooses.
CHOICES = tuple(10.0**power for power in range(-6, 3))
_FOLDS = 5
_MANY = 1000  # labelled images from which on two folds are enough
_ITERATIONS = 300  # of L-BFGS; weak penalties never end on many images
_BATCH = 32

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


def classify(
    features: Features, labels: NDArray[np.int64], test: Features, seed: int
) -> NDArray[np.int64]:
    """The classes of the features (M, D) `test`, by logistic regression on labelled ones (N, D).

    Features are divided by their standard deviation, so that the L2 penalty means the same for
    every network. Its strength has the best accuracy in cross-validation, the strongest of equals.
    With one image a class there is nothing to validate with, and it is the middle of the choices.

    Gaussians of the classes with one covariance, whose shrinkage folds choose (arXiv:2402.04087),
    were better on five of six datasets from 5 images a class on, and lost 2.7 points with 5 on
    clothes: lab/results/frozen.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    scale = float(features.std(dtype=np.float64)) or 1.0
    # The solution lies in the span of the labelled features: fewer unknowns.
    span = PCA().fit(features.astype(np.float64) / scale)
    folds = folds_of(labels)
    model: Any = LogisticRegression(C=CHOICES[len(CHOICES) // 2], max_iter=_ITERATIONS)
    if folds > 1:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"C": CHOICES}, cv=splits, error_score=0.0)
    with warnings.catch_warnings():
        # Of classes with fewer images than folds, and of weak penalties.
        warnings.simplefilter("ignore")
        model.fit(span.transform(features / scale), labels)
    guesses: NDArray[np.int64] = model.predict(span.transform(test / scale))
    return guesses


def folds_of(labels: NDArray[np.int64]) -> int:
    """The number of folds of cross-validation; 1 for none, with one image a class."""
    return min(2 if len(labels) > _MANY else _FOLDS, int(np.bincount(labels).max()))
