"""The fixed point under identity covariances, where a handful of coordinates is enough."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..gaussians import squared_distances
from .config import FixedPointConfig, FixedPointResult
from .loop import State, StepReport, iterate
from .rules import Pi, class_kernel

__all__ = ["solve_means"]


def solve_means(
    data_means: Tensor, start: Tensor, config: FixedPointConfig, weight: float, pi: Pi
) -> FixedPointResult:
    r"""Class means alone, by `solve`'s rules, in the subspace that they never leave.

    Under identity covariances the update is
    :math:`\mu \leftarrow m + c\,(\mathrm{diag}(P 1) - P)\,\mu` with the (K, K) matrix
    :math:`P = K + K^T` that depends on distances alone. So means stay in the affine span of those
    of the data and of the start, and distances and lengths are the same in an orthonormal basis of
    it, found once by a QR decomposition. An iteration then costs O(K^3), whatever d is.

    Args:
        data_means: m, shape (K, d), float64, checked.
        start: Where to begin, shape (K, d), float64.
        config: Settings; ``fit`` is "means".
        weight: c, resolved.
        pi: The divergence scale.
    """
    centre = data_means.mean(dim=0)
    rows = data_means - centre
    same = start is data_means or torch.equal(start, data_means)
    if not same:
        rows = torch.cat([rows, start - centre])
    basis = None
    if data_means.shape[1] > len(rows):
        basis, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T.contiguous()
    data = rows[: len(data_means)]
    ones = rows.new_ones(len(data), 1)
    step = _MeansStep(data, weight, config, pi)
    result = iterate(step, (rows[-len(data) :].clone(), ones), config, weight)
    means = result.means if basis is None else result.means @ basis.T
    return replace(result, means=means.add_(centre), variances=torch.ones_like(means))


class _MeansStep:
    """One evaluation of the mean update."""

    def __init__(self, data: Tensor, weight: float, config: FixedPointConfig, pi: Pi) -> None:
        self.data = data
        self.weight = weight
        self.config = config
        self.pi = pi

    def __call__(self, state: State, following: State) -> StepReport:
        means = state[0]
        centred = means - means.mean(dim=0)
        kl = squared_distances(centred).mul_(0.5)
        kernel = class_kernel(kl, self.pi, self.config.alpha)
        pull = kernel + kernel.T
        pull.diagonal().sub_(pull.sum(dim=1))
        move = (self.data - means).addmm_(pull, centred, alpha=-self.weight)
        torch.add(means, move, alpha=self.config.damping, out=following[0])
        moves = torch.linalg.vector_norm(move, dim=1)
        return StepReport(kl, moves, torch.zeros_like(moves), ~moves.isfinite())
