"""The fixed-point solver for diagonal covariances, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..gaussians import check_gaussians, pairwise_kl
from .config import FixedPointConfig, FixedPointDivergence, FixedPointResult, FixedPointStep
from .rules import class_kernel, mean_update, proposition1_update, released_update

__all__ = [
    "FixedPointConfig",
    "FixedPointDivergence",
    "FixedPointResult",
    "FixedPointStep",
    "solve",
]

#: A variance this many times above the largest or below the smallest of the data's has diverged.
DIVERGENCE_RATIO = 1e12

#: Means and variances.
State: TypeAlias = tuple[Tensor, Tensor]


def solve(
    data_means: Tensor,
    data_variances: Tensor,
    config: FixedPointConfig | None = None,
) -> FixedPointResult:
    r"""Find class gaussians that are likely and well separated, by iterating Eqs. 5-7.

    .. math:: \mu \leftarrow \mu + \eta\,(M_\mu(\mu, v) - \mu), \quad
              \log v \leftarrow \log v + \eta\,(\log M_v(\mu, v) - \log v)

    from the data's gaussians, with `mean_update` as :math:`M_\mu`, `released_update` or
    `proposition1_update` as :math:`M_v`, and :math:`\eta` = ``config.damping``. Both updates read
    the previous state. An iteration takes O(K^2 d) time, in matrix products, and
    O(Kd + K^2) memory.

    Args:
        data_means: m, the class means of the latents, shape (K, d).
        data_variances: s, the class variances, shape (K, d), positive.
        config: Settings; the defaults if None.

    Returns:
        Finite gaussians in float64 on the device of ``data_means`` (on the CPU if that device has
        no float64), whether or not the iteration converged.

    Raises:
        ValueError: If there are fewer than two classes, a value is not finite or a variance is not
            positive.
        FixedPointDivergence: If a gaussian leaves the range of positive finite numbers.

    Example:
        >>> means = torch.tensor([[0.0, 0.1], [0.1, 0.0], [0.2, 0.2]])
        >>> result = solve(means, torch.ones(3, 2), FixedPointConfig(fit="means", kld_weight=20.0))
        >>> result.converged, tuple(result.means.shape)
        (True, (3, 2))
        >>> result.history[-1].kl_min > result.history[0].kl_min
        True

    Source: Enescu & Sahbi, "Learning Conditionally Untangled Latent Spaces using Fixed Point
    Iteration", BMVC 2024.
    """
    config = FixedPointConfig() if config is None else config
    data = as_double(data_means, data_variances)
    check_classes(data[0])
    weight = config.weight(*data[0].shape)
    if config.fit == "means":
        return _solve_means(data[0], config, weight)
    return _solve_diagonal(data, config, weight)


class StepReport(NamedTuple):
    """Divergences (K, K) before a step; per class, (K,), its lengths and whether it diverged."""

    kl: Tensor
    mean_moves: Tensor
    variance_moves: Tensor
    out_of_range: Tensor


def iterate(
    step: Callable[[State, State], StepReport],
    state: State,
    config: FixedPointConfig,
    weight: float,
) -> FixedPointResult:
    """Call ``step(state, following)``, which writes the next state, until it converges.

    A part of the state that ``config.fit`` holds fixed is the same tensor in both states.
    """
    fixed = {"means": 1, "covariances": 0, "both": None}[config.fit]
    following: State = (
        state[0] if fixed == 0 else torch.empty_like(state[0]),
        state[1] if fixed == 1 else torch.empty_like(state[1]),
    )
    history: list[FixedPointStep] = []
    converged = False
    for iteration in range(1, config.max_iterations + 1):
        report = step(state, following)
        if bool(report.out_of_range.any()):
            worst = int(report.out_of_range.nonzero()[0])
            raise FixedPointDivergence(iteration, worst, weight, config.advice(), history)
        history.append(record(iteration, report))
        converged = history[-1].residual <= config.tolerance
        if converged or iteration == config.max_iterations:
            break
        state, following = following, state
    # The state before the last step is the one that the residual describes.
    return FixedPointResult(*state, converged, iteration, history[-1].residual, history)


def record(iteration: int, report: StepReport) -> FixedPointStep:
    """The entry of the history that describes a step."""
    kl, classes = report.kl, len(report.kl)
    mean = float(kl.sum()) / (classes * (classes - 1))  # the diagonal is zero
    # In place: a copy without the diagonal would cost more than everything else here.
    kl.diagonal().fill_(torch.inf)
    least = float(kl.min())
    kl.diagonal().zero_()
    return FixedPointStep(
        iteration,
        mean_residual=float(report.mean_moves.max()),
        variance_residual=float(report.variance_moves.max()),
        kl_min=least,
        kl_mean=mean,
    )


def _solve_diagonal(data: State, config: FixedPointConfig, weight: float) -> FixedPointResult:
    """`solve` for fit "covariances" and "both"."""
    m, s = data
    least, most = variance_range(s)

    def step(state: State, following: State) -> StepReport:
        mu, v = state
        kl = pairwise_kl(mu, v)
        kernel = class_kernel(kl, config.kernel, config.alpha)
        mean_moves = kl.new_zeros(len(kl))
        if config.fit == "both":
            scale = v.mean(dim=1, keepdim=True) if config.isotropic_mean_step else v
            move = mean_update(m, mu, scale, kernel, weight) - mu
            mean_moves = torch.linalg.vector_norm(move, dim=1)
            torch.add(mu, move, alpha=config.damping, out=following[0])
        if config.update == "released":
            target = released_update(s, mu, v, kernel, weight)
        else:
            target = proposition1_update(m, s, mu, v, kernel, weight)
        if config.variance_bounds is not None:
            target.clamp_(*config.variance_bounds)
        moves = torch.linalg.vector_norm(target - v, dim=1)
        low, high = target.aminmax(dim=1)
        torch.mul((target / v).pow_(config.damping), v, out=following[1])
        inside = (low > least) & (high < most) & mean_moves.isfinite() & moves.isfinite()
        return StepReport(kl, mean_moves, moves, ~inside)

    # Copies: the iteration writes into its state, and the data may share the caller's memory.
    means, variances = m.clone(), s.clone()
    if config.variance_bounds is not None:
        variances.clamp_(*config.variance_bounds)
    return iterate(step, (means, variances), config, weight)


def _solve_means(data_means: Tensor, config: FixedPointConfig, weight: float) -> FixedPointResult:
    r"""`solve` for fit "means", in the subspace that contains all iterates.

    With identity covariances the update is
    :math:`\mu \leftarrow m + c\,(\mathrm{diag}(P 1) - P)\,\mu`, where the (K, K) matrix
    :math:`P = K + K^T` depends only on distances. The means stay in the affine span of the data's
    means. In an orthonormal basis of this span, from one QR decomposition,
    distances and norms are the same and an iteration costs O(K^3) for any d.
    """
    centre = data_means.mean(dim=0)
    rows = data_means - centre
    basis = None
    if data_means.shape[1] > len(rows):
        basis, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T.contiguous()

    ones = rows.new_ones(len(rows), 1)

    def step(state: State, following: State) -> StepReport:
        means = state[0]
        centred = means - means.mean(dim=0)
        kl = pairwise_kl(centred, ones)
        kernel = class_kernel(kl, config.kernel, config.alpha)
        pull = kernel + kernel.T
        pull.diagonal().sub_(pull.sum(dim=1))
        move = (rows - means).addmm_(pull, centred, alpha=-weight)
        torch.add(means, move, alpha=config.damping, out=following[0])
        moves = torch.linalg.vector_norm(move, dim=1)
        return StepReport(kl, moves, torch.zeros_like(moves), ~moves.isfinite())

    result = iterate(step, (rows.clone(), ones), config, weight)
    means = result.means if basis is None else result.means @ basis.T
    return replace(result, means=means.add_(centre), variances=torch.ones_like(means))


def variance_range(data_variances: Tensor) -> tuple[float, float]:
    """Limits beyond which a variance has diverged; the data's variances and 1 lie inside."""
    low, high = float(data_variances.min()), float(data_variances.max())
    return min(low, 1.0) / DIVERGENCE_RATIO, max(high, 1.0) * DIVERGENCE_RATIO


def check_classes(means: Tensor) -> None:
    """Check that there are at least two classes."""
    if len(means) < 2:
        raise ValueError(
            f"separating classes needs at least 2 of them, got {len(means)}; use the data's own "
            "gaussian for a single class"
        )


def as_double(means: Tensor, variances: Tensor) -> State:
    """Check class gaussians and return them in float64, on the CPU if the device has no float64."""
    check_gaussians(means, variances)
    means, variances = (
        (x.cpu() if x.device.type == "mps" else x).detach().double() for x in (means, variances)
    )
    return means, variances
