"""The fixed point with full covariance matrices, for latents of few coordinates (d up to 512)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .config import FixedPointConfig, FixedPointResult
from .dense_rules import (
    dense_mean_update,
    dense_objective,
    dense_pairwise_kl,
    dense_proposition1_update,
    dense_released_update,
    geodesic,
    inverse_geometric_mean,
    project_eigenvalues,
    symmetric,
)
from .loop import State, StepReport, iterate
from .rules import class_kernel, mean_update
from .solver import (
    CustomPi,
    as_double,
    check_counts,
    checked_means,
    solve,
    variance_range,
)

__all__ = [
    "dense_mean_update",
    "dense_objective",
    "dense_pairwise_kl",
    "dense_proposition1_update",
    "dense_released_update",
    "geodesic",
    "inverse_geometric_mean",
    "solve_dense",
]


def solve_dense(
    data_means: Tensor,
    data_covariances: Tensor,
    config: FixedPointConfig | None = None,
    *,
    counts: Tensor | None = None,
    pi: CustomPi | None = None,
    start: tuple[Tensor, Tensor] | None = None,
) -> FixedPointResult:
    """`solve` with full covariances.

    Where everything is diagonal, that is S and the outer products of differences of means, it
    gives the same answer. Means that differ along no single axis turn diagonal S into full Sigma.

    Damping moves covariances along the geodesic (log-variances in the diagonal case), bounds are a
    projection of the eigenvalues, and the residual is a Frobenius norm. An estimate of S from
    fewer samples than coordinates is singular and refused: shrink it, or keep to diagonals, as the
    paper does.

    Args:
        data_means: m, shape (K, d).
        data_covariances: S, shape (K, d, d), symmetric positive definite.
        config, counts, pi, start: As for `solve`.

    Returns:
        Finite gaussians whose ``variances`` are covariances of shape (K, d, d).

    Raises:
        ValueError: If an input is unfit, a covariance that is not positive definite included.
        FixedPointDivergence: If the iteration leaves the range of positive finite numbers.
    """
    config = FixedPointConfig() if config is None else config
    if config.anderson and config.fit != "means":
        raise ValueError("Anderson acceleration works on log-variances; set anderson to 0 here")
    data = _checked(data_means, data_covariances, "data")
    check_counts(counts, len(data_means))
    means, covariances = data if start is None else _checked(*start, "start")
    if means.shape != data[0].shape:
        raise ValueError(
            f"start means have shape {tuple(means.shape)}, the data's {tuple(data[0].shape)}"
        )
    if config.fit == "means":  # identity covariances: nothing is dense
        ones = torch.ones_like(means)
        result = solve(data[0], ones, config, pi=pi, start=(means, ones))
        return replace(result, variances=torch.diag_embed(result.variances))
    means = (data[0] if config.fit == "covariances" else means).clone()
    if config.variance_bounds is not None:
        covariances = project_eigenvalues(covariances, *config.variance_bounds)
    weight = config.weight(*means.shape)
    step = _DenseStep(data, config, weight, pi)
    return iterate(step, (means, covariances.clone()), config, weight)


class _DenseStep:
    """One evaluation of the updates."""

    def __init__(
        self, data: State, config: FixedPointConfig, weight: float, pi: CustomPi | None
    ) -> None:
        self.data = data
        self.config = config
        self.pi = config.kernel if pi is None else pi
        self.weight = weight
        self.range = variance_range(data[1].diagonal(dim1=1, dim2=2))

    def __call__(self, state: State, following: State) -> StepReport:
        try:
            return self._step(state, following)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined, unused-ignore]
            # No longer positive definite in floating point: blame the class that is furthest gone.
            diagonals = state[1].diagonal(dim1=1, dim2=2)
            worst = torch.maximum(diagonals.amax(dim=1), 1 / diagonals.amin(dim=1)).argmax()
            classes = torch.arange(len(diagonals), device=diagonals.device)
            nothing = torch.zeros_like(diagonals[:, 0])
            return StepReport(nothing.diag(), nothing, nothing, classes == worst)

    def _step(self, state: State, following: State) -> StepReport:
        means, covariances = state
        m, s = self.data
        config, weight = self.config, self.weight
        kl = dense_pairwise_kl(means, covariances)
        kernel = class_kernel(kl, self.pi, config.alpha)
        mean_moves = torch.zeros_like(means)
        if config.fit == "both":
            if config.isotropic_mean_step:
                average = covariances.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
                target = mean_update(m, means, average, kernel, weight)
            else:
                target = dense_mean_update(m, means, covariances, kernel, weight)
            mean_moves = target - means
            torch.add(means, mean_moves, alpha=config.damping, out=following[0])
        if config.update == "released":
            target = dense_released_update(s, means, covariances, kernel, weight)
        else:
            target = dense_proposition1_update(m, s, means, covariances, kernel, weight)
        if config.variance_bounds is not None:
            target = project_eigenvalues(target, *config.variance_bounds)
        following[1].copy_(geodesic(covariances, target, config.damping))
        diagonals = target.diagonal(dim1=1, dim2=2)
        inside = (diagonals > self.range[0]) & (diagonals < self.range[1])
        mean_moves = torch.linalg.vector_norm(mean_moves, dim=1)
        moves = torch.linalg.matrix_norm(target - covariances)
        finite = mean_moves.isfinite() & moves.isfinite()
        return StepReport(kl, mean_moves, moves, ~(inside.all(dim=1) & finite))


def _checked(means: Tensor, covariances: Tensor, name: str) -> State:
    """Means and covariances in float64, finite, the latter symmetric positive definite."""
    means = checked_means(means, name)
    classes, dim = means.shape
    if covariances.shape != (classes, dim, dim) or not covariances.is_floating_point():
        raise ValueError(
            f"{name} covariances must be floating point of shape {(classes, dim, dim)}, got "
            f"{covariances.dtype} of shape {tuple(covariances.shape)}"
        )
    covariances = as_double(covariances)
    bad = ~covariances.isfinite().flatten(1).all(dim=1)
    if bool(bad.any()):
        raise ValueError(f"{name} covariance of class {int(bad.nonzero()[0])} is not finite")
    asymmetry = (covariances - covariances.mT).abs().flatten(1).amax(dim=1)
    bad = asymmetry > 1e-6 * covariances.abs().flatten(1).amax(dim=1)
    if bool(bad.any()):
        worst = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} covariance of class {worst} is not symmetric: it differs from its transpose "
            f"by up to {float(asymmetry[worst]):g}"
        )
    covariances = symmetric(covariances)
    bad = torch.linalg.cholesky_ex(covariances).info > 0
    if bool(bad.any()):
        raise ValueError(
            f"{name} covariance of class {int(bad.nonzero()[0])} is not positive definite; take "
            "more samples than coordinates, add a small multiple of the identity, or use the "
            "diagonal solver"
        )
    return means, covariances
