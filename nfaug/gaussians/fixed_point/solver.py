"""The class gaussians by fixed-point iteration: tensors in, tensors out, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..gaussians import column_slices, pairwise_kl
from .config import (
    REFERENCE_WEIGHT,
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
)
from .loop import State, StepReport, iterate
from .means import solve_means
from .rules import (
    KL_FLOOR,
    class_kernel,
    mean_update,
    objective,
    proposition1_update,
    push_matrix,
    released_update,
)

__all__ = [
    "DIVERGENCE_RATIO",
    "KL_FLOOR",
    "REFERENCE_WEIGHT",
    "FixedPointConfig",
    "FixedPointDivergence",
    "FixedPointResult",
    "FixedPointStep",
    "class_kernel",
    "mean_update",
    "objective",
    "pairwise_kl",
    "proposition1_update",
    "released_update",
    "solve",
]

#: A variance this many times above the largest or below the smallest of the data's has diverged.
DIVERGENCE_RATIO = 1e12

#: A function of the (K, K) matrix of divergences that returns their scale pi: see `class_kernel`.
CustomPi: TypeAlias = Callable[[Tensor], Tensor | float]


def solve(
    data_means: Tensor,
    data_variances: Tensor,
    config: FixedPointConfig | None = None,
    *,
    counts: Tensor | None = None,
    pi: CustomPi | None = None,
    start: tuple[Tensor, Tensor] | None = None,
) -> FixedPointResult:
    """Iterate Eqs. 5-7 from the data's class gaussians until they no longer move.

    All updates of an iteration see the state before it. Each costs O(K^2 d) time, in matrix
    products, and O(Kd + K^2) memory.

    Args:
        data_means: m, the class means of the latents, shape (K, d).
        data_variances: s, the class variances, shape (K, d), positive.
        config: What to fit, and how.
        counts: Training samples per class, shape (K,), only to refuse classes with fewer than two.
        pi: A divergence scale of your own in place of ``config.kernel``.
        start: Means and variances to start from, in place of the data's (fit "means" reads only
            the means, "covariances" only the variances).

    Returns:
        Finite gaussians in float64, converged or not, on the device of ``data_means`` (on the CPU
        where that has no float64).

    Raises:
        ValueError: If an input is unfit: fewer than two classes, a class with fewer than two
            samples, a value that is not finite, a variance that is not positive.
        FixedPointDivergence: If the iteration leaves the range of positive finite numbers.
    """
    config = FixedPointConfig() if config is None else config
    data = checked_gaussians(data_means, data_variances, "data")
    check_counts(counts, len(data_means))
    means, variances = data if start is None else checked_gaussians(*start, "start")
    if means.shape != data[0].shape:
        raise ValueError(
            f"start means have shape {tuple(means.shape)}, the data's {tuple(data[0].shape)}"
        )
    weight = config.weight(*means.shape)
    if config.fit == "means":
        return solve_means(data[0], means, config, weight, config.kernel if pi is None else pi)
    # Copies: the iteration writes into its state, and the data may share the caller's memory.
    means = (data[0] if config.fit == "covariances" else means).clone()
    if config.variance_bounds is None:
        variances = variances.clone()
    else:
        variances = variances.clamp(*config.variance_bounds)
    return iterate(_DiagonalStep(data, config, weight, pi), (means, variances), config, weight)


class _DiagonalStep:
    """One evaluation of the updates, a slice of coordinates at a time.

    Given the kernel, coordinates do not interact: slices keep temporaries small and in the cache.
    """

    def __init__(
        self, data: State, config: FixedPointConfig, weight: float, pi: CustomPi | None
    ) -> None:
        self.data = data
        self.config = config
        self.pi = config.kernel if pi is None else pi
        self.weight = weight
        self.range = variance_range(data[1])

    def __call__(self, state: State, following: State) -> StepReport:
        means, variances = state
        config = self.config
        kl = pairwise_kl(means, variances)
        kernel = class_kernel(kl, self.pi, config.alpha)
        push = None
        if config.isotropic_mean_step:
            push = push_matrix(variances.mean(dim=1, keepdim=True), kernel)
        mean_moves, variance_moves = kl.new_zeros(2, len(kl))
        out_of_range = torch.zeros_like(mean_moves, dtype=torch.bool)
        for part in column_slices(*means.shape):
            m, s = (x[:, part] for x in self.data)
            mu, v = means[:, part], variances[:, part]
            centred = mu - mu.mean(dim=0)
            if config.fit != "covariances":
                if push is None:
                    move = mean_update(m, mu, v, kernel, self.weight) - mu
                else:
                    move = (m - mu).addmm_(push, centred, alpha=self.weight)
                mean_moves += torch.linalg.vector_norm(move, dim=1).square_()
                torch.add(mu, move, alpha=config.damping, out=following[0][:, part])
            if config.update == "released":
                target = released_update(s, mu, v, kernel, self.weight, centred=centred)
            else:
                target = proposition1_update(m, s, mu, v, kernel, self.weight, centred=centred)
            if config.variance_bounds is not None:
                target.clamp_(*config.variance_bounds)
            variance_moves += torch.linalg.vector_norm(target - v, dim=1).square_()
            low, high = target.aminmax(dim=1)
            # Written so that NaN is out of range.
            out_of_range |= ~((low > self.range[0]) & (high < self.range[1]))
            _damped(v, target, config.damping, following[1][:, part])
        out_of_range |= ~(mean_moves.isfinite() & variance_moves.isfinite())
        return StepReport(kl, mean_moves.sqrt(), variance_moves.sqrt(), out_of_range)


def _damped(v: Tensor, target: Tensor, damping: float, out: Tensor) -> None:
    """A step of that share from v to the target in log v, into ``out``; overwrites the target."""
    if damping == 0.5:  # the default, in two passes
        torch.sqrt(target.mul_(v), out=out)
    else:
        torch.mul(target.div_(v).pow_(damping), v, out=out)


def variance_range(data_variances: Tensor) -> tuple[float, float]:
    """What a variance cannot leave without having diverged; the data's range and 1 lie inside."""
    low, high = float(data_variances.min()), float(data_variances.max())
    return min(low, 1.0) / DIVERGENCE_RATIO, max(high, 1.0) * DIVERGENCE_RATIO


def check_counts(counts: Tensor | None, num_classes: int) -> None:
    """Refuse a single class, and classes that are too small to have a variance."""
    if num_classes < 2:
        raise ValueError(
            f"the fixed point needs at least 2 classes to separate, got {num_classes}; for one "
            "class use the data's own gaussian"
        )
    if counts is None:
        return
    if counts.shape != (num_classes,):
        raise ValueError(
            f"counts must have shape ({num_classes},), one per class, got {tuple(counts.shape)}"
        )
    if bool((counts < 2).any()):
        few = int((counts < 2).nonzero()[0])
        raise ValueError(
            f"class {few} has {int(counts[few])} training samples, at least 2 are needed for a "
            "variance; add images or leave the class out"
        )


def checked_means(means: Tensor, name: str) -> Tensor:
    """Class means in float64 (on the CPU where their device has none), shape (K, d), finite."""
    if means.ndim != 2 or means.shape[1] == 0 or not means.is_floating_point():
        raise ValueError(
            f"{name} means must be floating point of shape (K, d), got {means.dtype} of shape "
            f"{tuple(means.shape)}"
        )
    bad = ~means.isfinite().all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} means of class {int(bad.nonzero()[0])} are not finite; check its latents"
        )
    return as_double(means)


def checked_gaussians(means: Tensor, variances: Tensor, name: str) -> State:
    """Class means and variances in float64, as `checked_means`, the variances positive."""
    means = checked_means(means, name)
    if variances.shape != means.shape or not variances.is_floating_point():
        raise ValueError(
            f"{name} variances must be floating point of shape {tuple(means.shape)}, as the means, "
            f"got {variances.dtype} of shape {tuple(variances.shape)}"
        )
    variances = as_double(variances)
    low, high = variances.aminmax(dim=1)
    bad = ~((low > 0) & (high < torch.inf))  # NaN is bad, too
    if bool(bad.any()):
        worst = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} variances must be positive and finite, those of class {worst} range from "
            f"{float(low[worst]):g} to {float(high[worst]):g}; floor them, as "
            "ClassStatistics.finalize does"
        )
    return means, variances


def as_double(x: Tensor) -> Tensor:
    """The values in float64, detached, on the CPU where the device has no float64."""
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()
