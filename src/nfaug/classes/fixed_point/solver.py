"""The fixed-point solver, in float64. The equations are those of `rules`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..gaussians import as_double, check_gaussians, pairwise_kl
from .config import FixedPointConfig, FixedPointDivergence, FixedPointResult
from .rules import class_kernel, mean_update, proposition1_update, released_update

#: A variance this many times above the largest or below the smallest of the data's has diverged.
DIVERGENCE_RATIO: float = 1e12

_ADVICE = (
    "lower kld_weight, set variance_bounds, for example (0.1, 10), or choose update='released' or "
    "fit='means'"
)


class State(NamedTuple):
    """Means and variances of all classes, each (K, d) in float64."""

    means: Tensor
    variances: Tensor


def solve(
    data_means: Tensor, data_variances: Tensor, config: FixedPointConfig | None = None
) -> FixedPointResult:
    r"""Find class Gaussians that are likely and well separated, by iterating Eqs. 5-7.

    .. math:: \mu \leftarrow \mu + \eta\,(M_\mu(\mu, v) - \mu), \quad
              \log v \leftarrow \log v + \eta\,(\log M_v(\mu, v) - \log v)

    from the data's Gaussians, with `mean_update` as :math:`M_\mu`, `released_update` or
    `proposition1_update` as :math:`M_v`, and :math:`\eta` = ``config.damping``. Both updates read
    the previous state. An iteration takes O(K^2 d) time, in matrix products, and
    O(Kd + K^2) memory.

    Args:
        data_means: m, the class means of the latents, shape (K, d).
        data_variances: s, the class variances, shape (K, d), positive.
        config: Settings; the defaults if None.

    Returns:
        Finite Gaussians in float64 on the device of ``data_means`` (on the CPU if that device has
        no float64), whether or not the iteration converged.

    Raises:
        ValueError: If there are fewer than two classes, a value is not finite or a variance is not
            positive.
        FixedPointDivergence: If a mean is not finite, or a variance is more than
            `DIVERGENCE_RATIO` times outside the range of the data's.

    Example:
        >>> from nfaug.classes.gaussians import pairwise_kl
        >>> means = torch.tensor([[0.0, 0.1], [0.1, 0.0], [0.2, 0.2]])
        >>> result = solve(means, torch.ones(3, 2), FixedPointConfig(fit="means", kld_weight=20.0))
        >>> result.converged, tuple(result.means.shape)
        (True, (3, 2))
        >>> kl = pairwise_kl(result.means, result.variances)
        >>> bool((kl >= pairwise_kl(means, torch.ones(3, 2))).all())
        True
    """
    config = config or FixedPointConfig()
    data = several_classes(data_means, data_variances)
    weight = config.weight(*data_means.shape)
    means, variances = data
    if config.fit == "means":
        variances = torch.ones_like(variances)
    elif config.variance_bounds is not None:
        variances = variances.clamp(*config.variance_bounds)
    lower_limit = min(float(data.variances.min()), 1.0) / DIVERGENCE_RATIO
    upper_limit = max(float(data.variances.max()), 1.0) * DIVERGENCE_RATIO
    for iteration in range(1, config.max_iterations + 1):
        kl = pairwise_kl(means, variances)
        kernel = class_kernel(kl, config.kernel, config.alpha)
        new_means, new_variances = _update(data, State(means, variances), kernel, config, weight)
        mean_moves = torch.linalg.vector_norm(new_means - means, dim=1)
        variance_moves = torch.linalg.vector_norm(new_variances - variances, dim=1)
        low, high = new_variances.aminmax(dim=1)
        in_range = (low > lower_limit) & (high < upper_limit)
        in_range &= (mean_moves + variance_moves).isfinite()
        if not bool(in_range.all()):
            first_class = int((~in_range).nonzero()[0])
            raise FixedPointDivergence(iteration, first_class, weight, _ADVICE)
        residual = float(torch.maximum(mean_moves, variance_moves).max())
        if residual <= config.tolerance or iteration == config.max_iterations:
            break  # the residual is that of the Gaussians before the step
        means = means + config.damping * (new_means - means)
        variances = variances * (new_variances / variances) ** config.damping
    converged = residual <= config.tolerance
    return FixedPointResult(means, variances, converged, iteration, residual)


def _update(
    data: State, state: State, kernel: Tensor, config: FixedPointConfig, weight: float
) -> State:
    """The undamped update of what ``config.fit`` fits; the other is returned as it is."""
    means, variances = state
    if config.fit != "covariances":
        means = mean_update(
            data.means, *state, kernel, weight, isotropic=config.isotropic_mean_step
        )
    if config.fit != "means":
        if config.update == "proposition1":
            variances = proposition1_update(*data, *state, kernel, weight)
        else:
            class_sum = config.update == "released"
            variances = released_update(data.variances, *state, kernel, weight, class_sum=class_sum)
        if config.variance_bounds is not None:
            variances = variances.clamp(*config.variance_bounds)
    return State(means, variances)


def several_classes(means: Tensor, variances: Tensor) -> State:
    """Copies in float64 of the Gaussians of at least two classes.

    Raises:
        ValueError: If there are fewer classes, or a value is out of range.
    """
    check_gaussians(means, variances)
    if len(means) < 2:
        raise ValueError(f"separating classes needs 2 or more, got {len(means)}; use kind 'data'")
    return State(as_double(means).detach().clone(), as_double(variances).detach().clone())
