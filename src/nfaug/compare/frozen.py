"""Frozen features: logistic regression on what a pretrained network computes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
#: Shares of the identity in the covariance of Gaussians, of which cross-validation chooses; the
#: largest first, which is taken of equals.
SHRINKAGES = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01)
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

    Gaussians of the classes with one shrunken covariance (arXiv:2402.04087) are better on most
    datasets, and clearly lost more than a point on clothes: lab/results/frozen.
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


def gaussians(
    features: Features, labels: NDArray[np.int64], test: Features, seed: int
) -> NDArray[np.int64]:
    """The classes of the features (M, D) `test`, by Gaussians with one covariance of all classes.

    Each class y of the labelled features (N, D) has its mean and its share p_y of the images. With
    the covariance S of what is left of features without the means of their classes, and a
    shrinkage g, the class of x is

        argmax_y log p_y - (x - mean_y)' C^-1 (x - mean_y) / 2,  C = (1 - g) S + g tr(S) / D I

    as in `sklearn.discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=g)`.
    Of `SHRINKAGES`, g is the one with the most right answers in five folds, the largest of equals;
    with one image a class there are no folds, S is 0, and the nearest mean is taken.

    Outside of the span of the labelled features around their mean, C is a multiple of the identity
    and all means are equal: within it there are N unknowns in place of D.

    Source: arXiv:2402.04087, on features of CLIP and with another shrinkage.
    """
    from sklearn.model_selection import StratifiedKFold

    width = features.shape[1]
    centre = features.mean(0, dtype=np.float64)
    span, _ = np.linalg.qr((features - centre).T)
    inner = (features - centre) @ span
    right = np.zeros(len(SHRINKAGES), np.int64)
    folds = folds_of(labels)
    if folds > 1:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with fewer images than folds
            for rest, held in splits.split(inner, labels):
                scores = _scores(inner[rest], labels[rest], inner[held], SHRINKAGES, width)
                guesses = np.unique(labels[rest])[scores.argmax(2)]
                right += (guesses == labels[held]).sum(1)
    best = SHRINKAGES[int(right.argmax())]
    (scores,) = _scores(inner, labels, (test - centre) @ span, [best], width)
    found: NDArray[np.int64] = np.unique(labels)[scores.argmax(1)]
    return found


def _scores(
    train: NDArray[np.float64],
    labels: NDArray[np.int64],
    test: NDArray[np.float64],
    shrinkages: Sequence[float],
    width: int,
) -> NDArray[np.float64]:
    """log p(class, x) of x (M, R) by Gaussians of (N, R), but for what all classes share.

    Args:
        train: Labelled features in axes that span them.
        labels: Their classes, (N,).
        test: Others in these axes.
        shrinkages: G of them.
        width: D, the number of features before they were written in these axes.

    Returns:
        (G, M, K), with a column for each class that is in `labels`, in order.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.eye(len(counts))[numbers]
    means = members.T @ train / counts[:, None]
    residuals = train - means[numbers]
    # In the axes of S all shrinkages have diagonal covariances.
    variances, axes = np.linalg.eigh(residuals.T @ residuals / len(train))
    level = np.square(residuals).sum() / len(train) / width or 1.0
    means = means @ axes
    inner = test @ axes
    found = np.empty((len(shrinkages), len(test), len(counts)))
    for row, shrinkage in enumerate(shrinkages):
        directions = means / ((1 - shrinkage) * variances + shrinkage * level)
        offsets = np.log(counts / len(train)) - (directions * means).sum(1) / 2
        found[row] = inner @ directions.T + offsets
    return found


def folds_of(labels: NDArray[np.int64]) -> int:
    """The number of folds of cross-validation; 1 for none, with one image a class."""
    return min(2 if len(labels) > _MANY else _FOLDS, int(np.bincount(labels).max()))
