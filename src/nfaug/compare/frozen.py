"""Logistic regression on the features of a frozen pretrained network."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfaug.io.device import pick_device

from .classifier import moments_of, timm_model
from .config import CompareConfig

__all__ = ["CHOICES", "FrozenNetwork", "Regression", "input_size", "strength_of_penalty"]

#: Inverse strengths of the L2 penalty, of which cross-validation chooses.
CHOICES = tuple(10.0**power for power in range(-6, 3))
_FOLDS = 5
_MANY = 1000  # labelled images from which on two folds are enough
_BATCH = 32
_ITERATIONS = 300  # of L-BFGS; weak penalties never end on many images

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
    """Pooled features of a pretrained timm model, at its own resolution.

    The features of an image are computed once, and kept by its pixels.
    """

    def __init__(self, config: CompareConfig, channels: int) -> None:
        self.side: int
        self.side, _ = input_size(config)
        self.device: torch.device = pick_device(config.device)
        self.model: Any = timm_model(config, (channels, self.side, self.side), 0)
        self.model.eval().to(self.device, memory_format=torch.channels_last)
        self.moments: Tensor = moments_of(self.model, channels).to(self.device)
        self._kept: dict[bytes, NDArray[np.float32]] = {}

    def features(self, images: Tensor) -> Features:
        """Features (N, D) of uint8 images (N, C, H, W), which are kept for another call."""
        digests = [_digest(image) for image in images]
        missing: dict[bytes, int] = {}
        for row, digest in enumerate(digests):
            if digest not in self._kept:
                missing[digest] = row
        if missing:
            made = self.compute(images[list(missing.values())])
            self._kept.update(zip(missing, made, strict=True))
        return np.stack([self._kept[digest] for digest in digests])

    @torch.no_grad()
    def compute(self, images: Tensor) -> Features:
        """Features (N, D) of the central part of uint8 images (N, C, H, W)."""
        mean, std = self.moments
        top = (images.shape[2] - self.side) // 2
        left = (images.shape[3] - self.side) // 2
        found = []
        for batch in images.split(_BATCH):
            inner = batch[..., top : top + self.side, left : left + self.side]
            inner = inner.to(self.device, memory_format=torch.channels_last)
            found.append(self.model((inner.float() / 255 - mean) / std).cpu())
        features: Features = torch.cat(found).numpy()
        return features


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).digest()


class Regression(NamedTuple):
    """Logistic regression with an L2 penalty on features (N, D).

    Features are centred, and divided by their overall standard deviation, so that the penalty means
    the same for every network.
    """

    model: Any
    mean: NDArray[np.float64]
    scale: float
    axes: NDArray[np.float64]  # an orthonormal base of the training features

    @classmethod
    def fit(
        cls,
        features: Features,
        labels: NDArray[np.int64],
        penalty: float,
        weights: NDArray[np.float64] | None = None,
    ) -> Regression:
        """Fit by L-BFGS; `penalty` is scikit-learn's C, and `weights` count images."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        mean = features.mean(0, dtype=np.float64)
        scale = float(features.std(dtype=np.float64)) or 1.0
        centred = (features - mean) / scale
        axes = np.eye(features.shape[1])
        if len(features) < features.shape[1]:
            # The weights of the solution lie in the span of the features: fewer unknowns.
            axes, _ = np.linalg.qr(centred.T)
        model = LogisticRegression(C=penalty, max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(centred @ axes, labels, weights)
        return cls(model, mean, scale, axes)

    def predict(self, features: Features) -> NDArray[np.int64]:
        """The class of each row."""
        found: NDArray[np.int64] = self.model.predict(
            (features - self.mean) / self.scale @ self.axes
        )
        return found


def strength_of_penalty(
    features: Features, labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> float:
    """The choice of C with the best accuracy in cross-validation; the strongest of equals.

    Images of a group are in one fold. One image per class leaves nothing to validate with: then
    it is the middle of the choices.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    largest = int(np.bincount(labels).max())
    folds = min(2 if len(labels) > _MANY else _FOLDS, largest, len(np.unique(groups)))
    right = np.zeros(len(CHOICES))
    if folds >= 2:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
            splits = list(splitter.split(features, labels, groups))
        for train, test in splits:
            if len(np.unique(labels[train])) < 2:
                continue
            for number, penalty in enumerate(CHOICES):
                model = Regression.fit(features[train], labels[train], penalty)
                right[number] += (model.predict(features[test]) == labels[test]).sum()
    if not right.any():
        return CHOICES[len(CHOICES) // 2]
    return CHOICES[int(right.argmax())]
