"""Gaussians of the classes as the head of frozen features, which `lab/frozen.py` measures."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from nfaug.compare.frozen import Features, folds_of

#: Shares of the identity in the covariance, of which cross-validation chooses; the largest first,
#: which is taken of equals.
SHRINKAGES = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01)


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
                scores = scores_of(inner[rest], labels[rest], inner[held], SHRINKAGES, width)
                guesses = np.unique(labels[rest])[scores.argmax(2)]
                right += (guesses == labels[held]).sum(1)
    best = SHRINKAGES[int(right.argmax())]
    (scores,) = scores_of(inner, labels, (test - centre) @ span, [best], width)
    found: NDArray[np.int64] = np.unique(labels)[scores.argmax(1)]
    return found


def scores_of(
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
