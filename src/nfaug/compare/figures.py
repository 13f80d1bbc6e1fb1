"""The figures of a comparison: cells, gains with their intervals, and which are significant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_SEEDS = 3  # an interval of two numbers says nothing
LEAST_IMAGES = 30  # of the test set: with ten, what has no effect was advised too often
ERRORS = 0.025  # how often a method without effect may be advised at the first look


class Cell(NamedTuple):
    """A classifier.

    Attributes:
        right: Which test images were right, (N,) bool.
        seconds: What it took.
        left: The training loss of its last steps as a share of log(classes), the loss of a guess;
            NaN if it was not kept.
    """

    right: NDArray[np.bool_]
    seconds: float
    left: float = math.nan

    @property
    def accuracy(self) -> float:
        """Accuracy in per cent."""
        return 100 * float(self.right.mean())


class Gain(NamedTuple):
    """A mean gain in points of accuracy, with what its intervals are made of.

    Attributes:
        mean: Mean over seeds.
        seed_error: Standard error over seeds, s / sqrt(n); infinite for fewer than three.
        image_error: Standard error that other test images would make. The noise of single
            answers is in `seed_error` already and is left out here.
        number: The number of seeds, n.
        clusters: The number of clusters of images, if they are not drawn one by one, and else 0.
            Clusters may be few, so that their interval is Student's.
    """

    mean: float
    seed_error: float
    image_error: float
    number: int
    clusters: int = 0

    @property
    def half_of_seeds(self) -> float:
        """Half-width of the 95% interval over seeds, Student's t times the standard error."""
        return self.half_at(0.025, images=False)

    @property
    def half_of_images(self) -> float:
        """Half-width of the 95% interval over images, 1.96 standard errors; see `clusters`."""
        return self._half_of_images(0.025)

    @property
    def half(self) -> float:
        """Half-width of the 95% interval: the root of the sum of squares of both."""
        return self.half_at(0.025)

    def half_at(self, tail: float, *, images: bool = True) -> float:
        """Half-width of the interval above which, and below which, a share `tail` lies."""
        if self.number < LEAST_SEEDS:
            return math.inf
        seeds = student(tail, self.number - 1) * self.seed_error
        if not images:
            return seeds
        return math.hypot(seeds, self._half_of_images(tail))

    def _half_of_images(self, tail: float) -> float:
        if self.clusters == 0:
            return statistics.NormalDist().inv_cdf(1 - tail) * self.image_error
        if self.clusters == 1:
            return math.inf
        return student(tail, self.clusters - 1) * self.image_error

    def __str__(self) -> str:
        """Rounded to what can be told apart: +4 ± 1, +2.1 ± 0.6; without ± for under 3 seeds.

        Empty for methods that have no seed in common.
        """
        if self.number == 0:
            return ""
        if math.isinf(self.half):
            return f"{self.mean:+.1f}"
        digits = 0 if self.half >= 0.95 else 1
        return f"{round(self.mean, digits) + 0.0:+.{digits}f} ± {self.half:.{digits}f}"


def gain_of(
    ours: Sequence[Cell], others: Sequence[Cell], clusters: Sequence[Hashable] | None = None
) -> Gain:
    """The gain of cells over others, with the same seeds in the same order.

    Args:
        ours: A cell of each seed.
        others: A cell of each seed.
        clusters: The name of what each test image belongs to, such as a patient or a recording:
            the interval is then one for other patients. None: each image is drawn by itself.
    """
    points = []  # of accuracy, a seed
    changes = []  # of each image, a seed: 1 if it is right in `ours` alone, -1 in `others` alone
    for cell, other in zip(ours, others, strict=True):
        points.append(cell.accuracy - other.accuracy)
        changes.append(cell.right.astype(float) - other.right)
    count = len(points)
    if count == 0:
        return Gain(0.0, math.inf, math.inf, 0)
    seed_error = math.inf
    if count >= LEAST_SEEDS:
        seed_error = statistics.stdev(points) / count**0.5
    images = len(changes[0])
    names = np.arange(images) if clusters is None else np.asarray(clusters)
    found, numbers = np.unique(names, return_inverse=True)
    image_error = 100 * _image_error(np.stack(changes), numbers)
    groups = len(found) if len(found) < images else 0
    return Gain(statistics.fmean(points), seed_error, image_error, count, groups)


def _image_error(changes: NDArray[np.float64], clusters: NDArray[np.intp]) -> float:
    """The standard error that the choice of images makes, by a two-way analysis of variance.

    For changes x[s, i] of seed s and image i, the means over seeds vary by the images and by noise:
    var_i(mean_s x) = images^2 + noise^2 / n. The error is images / sqrt(N). Its square and that of
    the error over seeds add up to the variance of the mean of all x; noise is counted once.

    With clusters, it is their sums that vary. Let d[i] = mean_s x[s, i] - mean x, and r[s, i] be
    what neither the seed nor the image explains. Of G clusters c,

        error^2 = (1 - 1 / N) f sum_c (sum_{i in c} d[i])^2 / N^2
                  - f sum_{s, c} (sum_{i in c} r[s, i])^2 / (n (n - 1) N^2),    f = G / (G - 1).

    f is there since deviations from the mean of G clusters are too small. 1 - 1 / N makes the first
    term var_i / N if each image is its own cluster.

    Args:
        changes: (n, N), between -1 and 1.
        clusters: The number of each image's cluster, (N,).
    """
    seeds, images = changes.shape
    groups = int(clusters.max()) + 1
    if groups == 1:
        return 0.0 if images == 1 else math.inf
    few = groups / (groups - 1)
    of_images = changes.mean(0)
    sums = np.bincount(clusters, of_images - of_images.mean())
    error = (1 - 1 / images) * few * float(np.square(sums).sum()) / images**2
    if seeds > 1:
        of_seeds = changes.mean(1, keepdims=True)
        for noise in changes - of_images - of_seeds + changes.mean():
            sums = np.bincount(clusters, noise)
            error -= few * float(np.square(sums).sum()) / (seeds * (seeds - 1) * images**2)
    return math.sqrt(max(0.0, error))


def student(tail: float, freedom: int) -> float:
    """The number above which a share `tail` of Student's distribution lies."""
    from scipy.special import stdtrit  # `nfaug compare --help` needs none of it

    return -float(stdtrit(freedom, tail))


def is_significant(gain: Gain, methods: int, later: int = 0) -> bool:
    """Whether a gain, one of those of so many methods, is above 0 after correction.

    The tail below the interval is 2.5%, divided by the number of methods (Bonferroni) and, at the
    k-th look after the first, by 2^k: over all looks without an effect, at most 5% are significant.
    """
    return gain.mean > gain.half_at(ERRORS / max(1, methods) / 2**later)
