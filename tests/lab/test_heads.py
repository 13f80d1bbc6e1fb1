"""The Gaussians of the study of frozen features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from lab import heads

Array = NDArray[Any]
#: How many images each class has.
COUNTS = {
    "equal": (6, 6, 6, 6),
    "many": (40, 40, 40, 40),
    "unequal": (20, 9, 4, 3),
    "some classes of one image": (8, 8, 1, 1),
    "three images": (3, 3, 3, 3),
}


def features_of(counts: tuple[int, ...], width: int = 48, seed: int = 0) -> tuple[Array, ...]:
    """Labelled features around means of classes, in random order, and others to classify.

    Noise is strong along a few axes, so that the shrinkage counts.
    """
    random = np.random.default_rng(seed)
    means = random.standard_normal((len(counts), width))
    spread = np.linspace(0.1, 1, width) ** 6 * 8 + 0.5
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    found: list[Array] = []
    for classes in (labels, random.integers(len(counts), size=400)):
        noise = random.standard_normal((len(classes), width)) * spread
        found.append((means[classes] + noise + 3).astype(np.float32))
    return found[0], labels, found[1]


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("shrinkage", [0.95, 0.3, 0.01])
def test_gaussians_are_those_of_scikit_learn(counts: tuple[int, ...], shrinkage: float) -> None:
    """More and fewer images than features; classes of one image count in the covariance as well."""
    features, labels, test = features_of(counts)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Only one sample available"
        model.fit(features.astype(float), labels)
    wanted = model.decision_function(test.astype(float))
    centre = features.mean(0, dtype=float)
    span, _ = np.linalg.qr((features - centre).T)
    (scores,) = heads.scores_of(
        (features - centre) @ span, labels, (test - centre) @ span, [shrinkage], features.shape[1]
    )
    # What all classes share is left out on both sides, and it differs.
    ours = scores - scores.mean(1, keepdims=True)
    theirs = wanted - wanted.mean(1, keepdims=True)
    assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_five_folds_choose_the_shrinkage(counts: tuple[int, ...], seed: int) -> None:
    """Against scikit-learn's folds and fits; of equals the largest is taken."""
    features, labels, test = features_of(counts, seed=seed)
    precise = features.astype(float)
    splits = StratifiedKFold(min(5, max(counts)), shuffle=True, random_state=seed)
    models = []
    right = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with fewer images than folds
        for shrinkage in heads.SHRINKAGES:
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
            guesses = cross_val_predict(model, precise, labels, cv=splits)
            right.append(int((guesses == labels).sum()))
            models.append(model.fit(precise, labels))
    assert list(heads.SHRINKAGES) == sorted(heads.SHRINKAGES, reverse=True)
    best = models[right.index(max(right))]
    assert np.array_equal(heads.gaussians(features, labels, test, seed), best.predict(test))


def test_one_image_a_class_has_the_nearest_mean() -> None:
    features, labels, test = features_of((1, 1, 1))
    distances = np.linalg.norm(test[:, None] - features[None], axis=2)
    assert np.array_equal(heads.gaussians(features, labels, test, 0), labels[distances.argmin(1)])
