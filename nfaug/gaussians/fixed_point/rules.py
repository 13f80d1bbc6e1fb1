r"""The equations of the fixed point, diagonal case: kernels, updates and the objective.

Notation: K classes with data means m and variances s, gaussians with means mu and variances v, the
weight c (``weight``) that multiplies the sums of Eqs. 5-7, and the kernel matrix

.. math:: K_{yy'} = \frac{1}{\pi a} \exp\left(-\frac{KL(y \| y')}{\pi a}\right)

All functions are pure and work on float64 tensors of shape (K, d), or on any slice of their
columns: given the kernel, coordinates do not interact. Every sum over pairs of classes is a matrix
product, after centring the means, so that nothing of size K x K x d is ever built.

Source: Enescu & Sahbi, "Learning Conditionally Untangled Latent Spaces using Fixed Point
Iteration", BMVC 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..gaussians import pairwise_kl

__all__ = [
    "KL_FLOOR",
    "Pi",
    "class_kernel",
    "class_nll",
    "divergence_penalty",
    "mean_update",
    "objective",
    "proposition1_update",
    "push_matrix",
    "released_update",
]

#: The smallest value, in nats, of the divergence scale pi: classes with equal means would give 0/0.
KL_FLOOR = 1e-8

#: How pairwise divergences are scaled: Eq. 9, Eq. 10, or a function of the (K, K) matrix of
#: pairwise divergences that returns a positive scalar or a positive (K, K) matrix.
Pi: TypeAlias = Literal["forward", "mean"] | Callable[[Tensor], Tensor | float]


def class_kernel(kl: Tensor, pi: Pi = "forward", alpha: float = 10.0) -> Tensor:
    r"""The kernel between classes, :math:`K_{yy'} = \exp(-KL/(\pi a)) / (\pi a)`.

    Args:
        kl: KL(y || y') for all pairs, shape (K, K).
        pi: "forward" for pi = KL(y || y') (Eq. 9; the kernel is then exp(-1/a)/(a KL)), "mean" for
            the mean over all pairs (Eq. 10), or a callable. Floored at ``KL_FLOOR``.
        alpha: a, positive.

    Returns:
        Shape (K, K), zero on the diagonal.

    Raises:
        ValueError: If a callable returns something that is not a positive scale.
    """
    scaled = _scale(kl, pi)
    if pi == "forward" and int(torch.count_nonzero(kl < KL_FLOOR)) <= len(kl):
        # KL / pi is 1 off the diagonal, and an exponential of the matrix would be for nothing.
        kernel = scaled.reciprocal_().mul_(math.exp(-1 / alpha) / alpha)
    else:
        scaled = scaled * alpha
        kernel = torch.exp(-kl / scaled) / scaled
    kernel.diagonal().zero_()
    return kernel


def mean_update(
    data_means: Tensor, means: Tensor, variances: Tensor, kernel: Tensor, weight: float
) -> Tensor:
    r"""One undamped mean update (Eq. 5).

    .. math:: \mu_y \leftarrow m_y + c\, v_y \sum_{y'} \left(\frac{K_{yy'}}{v_{y'}} +
              \frac{K_{y'y}}{v_y}\right) (\mu_y - \mu_{y'})

    Args:
        data_means: m, shape (K, d).
        means: mu, shape (K, d).
        variances: v, shape (K, d), or (K, 1) for one variance per class; the isotropic step passes
            each class's average over coordinates.
        kernel: Shape (K, K).
        weight: c.
    """
    centred = means - means.mean(dim=0)
    if variances.shape[1] == 1:
        return data_means.addmm(push_matrix(variances, kernel), centred, alpha=weight)
    precisions = variances.reciprocal()
    sent = centred * (kernel @ precisions) - kernel @ (centred * precisions)
    received = centred * kernel.sum(dim=0)[:, None] - kernel.T @ centred
    return data_means + weight * (variances * sent + received)


def push_matrix(variances: Tensor, kernel: Tensor) -> Tensor:
    """The (K, K) matrix that `mean_update` applies to the means where variances are (K, 1).

    The weights between two classes are then the same in all coordinates: a graph Laplacian, and a
    single matrix product for the whole update.
    """
    pull = kernel / variances.T + kernel.T / variances
    return variances * (torch.diag(pull.sum(dim=1)) - pull)


def released_update(
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    kernel: Tensor,
    weight: float,
    *,
    centred: Tensor | None = None,
) -> Tensor:
    r"""One undamped variance update by the rule behind the paper's published numbers.

    .. math:: v_y \leftarrow \sqrt{B / (v_y^2 A)}, \quad
              v_y^2 A = v_y \Big(1 + c \sum_{y'} (K_{yy'} - K_{y'y})\Big) + c \sum_{y'} K_{y'y}
              \left[(\mu_y - \mu_{y'})^2 + v_{y'}\right], \quad
              B = s_y + c\, v_y^2 \sum_{y'} K_{yy'} / v_{y'}

    Against Proposition 1, A is multiplied by v on both sides and B lacks (m - mu)^2. The fixed
    point is therefore another one, which draws variances towards 1: without the divergence term
    (weight 0) it is :math:`s^{1/3}`, not s. It is not stationary for the objective.

    A is no sum of positive terms. Where less than a tenth of v^2 A is left by cancellation, or it
    is negative, c v sum K_y'y is added to it and c v^3 sum K_y'y to B: the fixed points are the
    same and both sides are positive.

    Args and shapes are those of `mean_update`, with ``data_variances`` s and, where the caller has
    it, ``centred``: the means less their average over classes.
    """
    centred = means - means.mean(dim=0) if centred is None else centred
    spread, attraction = _sums(centred, variances, kernel)
    sent, received = _totals(kernel)
    squares = variances.square()
    b = torch.addcmul(data_variances, squares, attraction, value=weight)
    a = spread.mul_(weight).addcmul_(variances, 1 + weight * (sent - received))
    # The spread alone is at least weight * received times the least variance of a coordinate.
    # Reading a verdict for all of a slice is cheaper than a mask of it.
    threshold = weight / 9 * received
    if bool(((a / variances).amin(dim=1, keepdim=True) < threshold).any()):
        extra = weight * received * variances
        cancelled = a < variances * threshold
        a = torch.where(cancelled, a + extra, a)
        b = torch.where(cancelled, b + extra * squares, b)
    return b.div_(a).sqrt_()


def proposition1_update(
    data_means: Tensor,
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    kernel: Tensor,
    weight: float,
    *,
    centred: Tensor | None = None,
) -> Tensor:
    r"""One undamped variance update of Proposition 1 (Eqs. 6-7), split so as to stay positive.

    .. math:: v_y \leftarrow \sqrt{B / A}, \quad
              A = \frac{1 + c \sum_{y'} K_{yy'}}{v_y} + \frac{c}{v_y^2} \sum_{y'} K_{y'y}
              \left[(\mu_y - \mu_{y'})^2 + v_{y'}\right], \quad
              B = s_y + (m_y - \mu_y)^2 + c\, v_y^2 \sum_{y'} \frac{K_{yy'}}{v_{y'}}
              + c\, v_y \sum_{y'} K_{y'y}

    As printed, the last term of B stands in A as -c sum K_y'y / v, which can make A negative. Moved
    across, both sides are positive and the fixed points, where A v^2 = B, are the same. They are
    stationary points of `objective`. With a large weight there may be none: see `solve`.

    Args and shapes are those of `released_update`, with ``data_means`` m.
    """
    centred = means - means.mean(dim=0) if centred is None else centred
    spread, attraction = _sums(centred, variances, kernel)
    sent, received = _totals(kernel)
    errors = data_means - means
    b = torch.addcmul(data_variances, errors, errors)
    b.addcmul_(attraction.mul_(variances).add_(received), variances, value=weight)
    a = spread.mul_(weight).addcmul_(variances, 1 + weight * sent)  # A v^2
    return b.div_(a).sqrt_().mul_(variances)


def objective(
    data_means: Tensor,
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    weight: float,
    *,
    pi: Pi = "forward",
    alpha: float = 10.0,
) -> Tensor:
    r"""The objective J whose stationary points Proposition 1 describes; a differentiable scalar.

    .. math:: J = \sum_y \frac12 \sum_i \left[\log 2\pi v_{yi} + \frac{s_{yi} +
              (m_{yi} - \mu_{yi})^2}{v_{yi}}\right] + c \sum_{y \neq y'}
              \exp\left(-\frac{KL(y \| y')}{sg(\pi)\, a}\right)

    The first sum is each class's mean negative log-likelihood in nats; sg stops the gradient, since
    the equations treat pi as a constant (taken literally, Eq. 3 with Eq. 9 is itself constant).

    Args:
        data_means, data_variances: m and s, shape (K, d).
        means: mu, shape (K, d).
        variances: v, shape (K, d) or (K, 1).
        weight: c.
        pi, alpha: As in `class_kernel`.
    """
    kl = pairwise_kl(means, variances)
    nll = class_nll(data_means, data_variances, means, variances)
    return nll + weight * divergence_penalty(kl, pi, alpha)


def class_nll(
    data_means: Tensor, data_variances: Tensor, means: Tensor, variances: Tensor
) -> Tensor:
    """The sum over classes of the mean negative log-likelihood of their data, in nats, a scalar."""
    errors = data_variances + (data_means - means).square()
    return 0.5 * (errors / variances + (2 * math.pi * variances).log()).sum()


def divergence_penalty(kl: Tensor, pi: Pi = "forward", alpha: float = 10.0) -> Tensor:
    r"""The double sum of Eq. 3, :math:`\sum_{y \neq y'} \exp(-KL/(sg(\pi)\, a))`, a scalar.

    Args are those of `class_kernel`. No gradient flows through pi.
    """
    scaled = _scale(kl.detach(), pi) * alpha
    return _zero_diagonal(torch.exp(-kl / scaled)).sum()


def _sums(centred: Tensor, variances: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """sum_y' K_y'y [(mu_y - mu_y')^2 + v_y'] and sum_y' K_yy' / v_y', each (K, d)."""
    spread = kernel.T @ torch.addcmul(variances, centred, centred)
    # mu^2 sum K - 2 mu K^T mu, as one product with mu.
    cross = torch.addmm(centred * kernel.sum(dim=0)[:, None], kernel.T, centred, alpha=-2)
    spread.addcmul_(centred, cross)
    return spread, kernel @ variances.reciprocal()


def _totals(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """sum_y' K_yy' and sum_y' K_y'y, each (K, 1)."""
    return kernel.sum(dim=1, keepdim=True), kernel.sum(dim=0)[:, None]


def _scale(kl: Tensor, pi: Pi) -> Tensor:
    """pi as a tensor that broadcasts over the (K, K) matrix, at least ``KL_FLOOR``."""
    if pi == "forward":
        scale = kl
    elif pi == "mean":
        scale = kl.sum() / (len(kl) * (len(kl) - 1))  # the diagonal is zero
    elif callable(pi):
        scale = torch.as_tensor(pi(kl), dtype=kl.dtype, device=kl.device)
        if scale.shape not in ((), kl.shape) or not bool((_off_diagonal(scale) > 0).all()):
            raise ValueError(
                f"pi must return a positive scalar or a positive matrix of shape {tuple(kl.shape)},"
                f" got shape {tuple(scale.shape)} with values from {float(scale.min()):g} to "
                f"{float(scale.max()):g}"
            )
    else:
        raise ValueError(f"pi must be 'forward', 'mean' or a callable, got {pi!r}")
    return scale.clamp(min=KL_FLOOR)


def _off_diagonal(scale: Tensor) -> Tensor:
    if scale.ndim == 0:
        return scale
    return scale[~torch.eye(len(scale), dtype=torch.bool, device=scale.device)]


def _zero_diagonal(matrix: Tensor) -> Tensor:
    """Out of place, for autograd."""
    eye = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(eye, 0.0)
