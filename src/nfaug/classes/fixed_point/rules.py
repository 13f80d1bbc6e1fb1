r"""The equations of the fixed point: the kernel between classes, and the updates.

Notation, and arguments of the functions:

- m and s (``data_means``, ``data_variances``), the moments of the latents of K classes, (K, d);
- mu and v (``means``, ``variances``), those of the class Gaussians, (K, d);
- c (``weight``), the factor of the sums of Eqs. 5-7;
- the ``kernel`` matrix (K, K), see `class_kernel`.

All functions are pure and take float64. Sums over pairs of classes are matrix products of the
centred means, so no K x K x d tensor is needed.

Source: Enescu & Sahbi, "Learning Conditionally Untangled Latent Spaces using Fixed Point
Iteration", BMVC 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .config import Kernel

__all__ = [
    "KL_FLOOR",
    "class_kernel",
    "mean_update",
    "proposition1_update",
    "released_update",
]

#: The smallest divergence scale pi, in nats: two identical Gaussians would otherwise give 0/0.
KL_FLOOR: float = 1e-8


def class_kernel(kl: Tensor, pi: Kernel = "forward", alpha: float = 10.0) -> Tensor:
    r"""The kernel between classes, :math:`K_{yy'} = \exp(-KL/(\pi a)) / (\pi a)`.

    Args:
        kl: KL(y || y') for all pairs, shape (K, K).
        pi: The scale: "forward" for pi = KL(y || y') (Eq. 9; the kernel is then exp(-1/a)/(a KL)),
            "mean" for the mean over all pairs (Eq. 10). It is at least ``KL_FLOOR``.
        alpha: a, positive.

    Returns:
        Shape (K, K), zero on the diagonal.
    """
    scale = _scale(kl, pi) * alpha
    return (torch.exp(-kl / scale) / scale).fill_diagonal_(0)


def mean_update(
    data_means: Tensor,
    means: Tensor,
    variances: Tensor,
    kernel: Tensor,
    weight: float,
    *,
    isotropic: bool = False,
) -> Tensor:
    r"""One undamped mean update (Eq. 5).

    .. math:: \mu_y \leftarrow m_y + c\, v_y \sum_{y'} \left(\frac{K_{yy'}}{v_{y'}} +
              \frac{K_{y'y}}{v_y}\right) (\mu_y - \mu_{y'})

    ``isotropic`` is the step of most of the paper's released configurations: v is replaced by its
    mean over coordinates, and 1/v by the mean of 1/v, which is larger than the inverse of that of
    v. With equal variances in all coordinates both steps are the same.
    """
    centred = means - means.mean(dim=0)
    precisions = variances.reciprocal()
    if isotropic:
        # Two classes pull on each other equally in all coordinates: a (K, K) graph Laplacian.
        average = variances.mean(dim=1, keepdim=True)
        precision = precisions.mean(dim=1, keepdim=True)
        pull = kernel * precision.T + kernel.T * precision
        laplacian = average * (torch.diag(pull.sum(dim=1)) - pull)
        return data_means.addmm(laplacian, centred, alpha=weight)
    sent = centred * (kernel @ precisions) - kernel @ (centred * precisions)
    received = centred * kernel.sum(dim=0)[:, None] - kernel.T @ centred
    return data_means + weight * (variances * sent + received)


def released_update(
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    kernel: Tensor,
    weight: float,
    *,
    class_sum: bool = True,
) -> Tensor:
    r"""One undamped variance update, as in the authors' released code.

    .. math:: v_y \leftarrow \sqrt{B / (v_y^2 A)}, \quad
              v_y^2 A = v_y \Big(1 + c \sum_{y'} (K_{yy'} - K_{y'y})\Big) + c \sum_{y'} K_{y'y}
              \left[S_{y'} + v_{y'}\right], \quad
              B = s_y + c\, v_y^2 \sum_{y'} K_{yy'} / v_{y'}, \quad
              S_{y'} = \sum_k (\mu_{y'} - \mu_k)^2

    Three things differ from Proposition 1: A is multiplied by v on both sides, B lacks
    (m - mu)^2, and S, a sum over all classes k, takes the place of (mu_y - mu_y')^2. All released
    configurations switch on that sum. Without ``class_sum`` the square of Proposition 1 is used,
    which is the rule ``update="no_class_sum"``.

    The fixed point differs from that of Proposition 1: it biases variances towards 1, is
    :math:`s^{1/3}` instead of s without the divergence term (weight 0), and is not stationary for
    the objective.

    A contains a difference. If cancellation leaves less than a ninth of its negative term, or makes
    it negative, c v sum K_y'y is added to v^2 A and c v^3 sum K_y'y to B. This keeps the fixed
    points and makes both positive.
    """
    sums = _pair_sums(means, variances, kernel, class_sum)
    squares = variances.square()
    a = weight * sums.spread + variances * (1 + weight * (sums.sent - sums.received))
    b = data_variances + weight * squares * sums.attraction
    extra = weight * sums.received * variances
    extra = torch.where(a < extra / 9, extra, 0.0)
    return ((b + extra * squares) / (a + extra)).sqrt()


def proposition1_update(
    data_means: Tensor,
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    kernel: Tensor,
    weight: float,
) -> Tensor:
    r"""One undamped variance update of Proposition 1 (Eqs. 6-7), rearranged to stay positive.

    .. math:: v_y \leftarrow \sqrt{B / A}, \quad
              A = \frac{1 + c \sum_{y'} K_{yy'}}{v_y} + \frac{c}{v_y^2} \sum_{y'} K_{y'y}
              \left[(\mu_y - \mu_{y'})^2 + v_{y'}\right], \quad
              B = s_y + (m_y - \mu_y)^2 + c\, v_y^2 \sum_{y'} \frac{K_{yy'}}{v_{y'}}
              + c\, v_y \sum_{y'} K_{y'y}

    In the paper the last term of B is part of A as -c sum K_y'y / v, which can make A negative.
    Moving it to B makes both positive and keeps the fixed points, where A v^2 = B. These are
    stationary points of the objective. At large weights there may be none: see `FixedPointConfig`.
    """
    sums = _pair_sums(means, variances, kernel)
    b = data_variances + (data_means - means).square()
    b = b + weight * variances * (variances * sums.attraction + sums.received)
    av2 = weight * sums.spread + variances * (1 + weight * sums.sent)  # A v^2
    return variances * (b / av2).sqrt()


class _PairSums(NamedTuple):
    """The sums over y' of the variance updates.

    Attributes:
        spread: sum K_y'y [(mu_y - mu_y')^2 + v_y'], or, with a sum over classes, the same with
            S_y' = sum_k (mu_y' - mu_k)^2 in place of the square, (K, d).
        attraction: sum K_yy' / v_y', (K, d).
        sent: sum K_yy', (K, 1).
        received: sum K_y'y, (K, 1).
    """

    spread: Tensor
    attraction: Tensor
    sent: Tensor
    received: Tensor


def _pair_sums(
    means: Tensor, variances: Tensor, kernel: Tensor, class_sum: bool = False
) -> _PairSums:
    sent = kernel.sum(dim=1, keepdim=True)
    received = kernel.sum(dim=0)[:, None]
    centred = means - means.mean(dim=0)
    squares = centred.square()
    if class_sum:
        # The centred means sum to 0, so S_y' = K mu_y'^2 + sum_k mu_k^2.
        spread = kernel.T @ (variances + len(means) * squares + squares.sum(dim=0))
    else:
        # The square (mu - mu')^2 as mu (mu - 2 mu') + mu'^2.
        spread = centred * (centred * received - 2 * (kernel.T @ centred))
        spread = spread + kernel.T @ (variances + squares)
    attraction = kernel @ variances.reciprocal()
    return _PairSums(spread, attraction, sent, received)


def _scale(kl: Tensor, pi: Kernel) -> Tensor:
    """pi as a tensor that broadcasts over the (K, K) matrix, at least ``KL_FLOOR``."""
    if pi == "forward":
        return kl.clamp(min=KL_FLOOR)
    # The diagonal is zero, so the mean is over pairs of different classes.
    pairs = len(kl) * (len(kl) - 1)
    return (kl.sum() / pairs).clamp(min=KL_FLOOR)
