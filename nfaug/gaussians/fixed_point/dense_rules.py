r"""The equations of the fixed point for full covariance matrices.

The same as in the diagonal case, with matrices S_y (data) and Sigma_y (gaussians) in place of the
vectors s_y and v_y. Sums over pairs of classes are still matrix products, on covariances flattened
to (K, d^2): O(K^2 d^2 + K d^3) time and O(K d^2) memory. All tensors are float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rules import Pi, divergence_penalty

__all__ = [
    "dense_mean_update",
    "dense_objective",
    "dense_pairwise_kl",
    "dense_proposition1_update",
    "dense_released_update",
    "geodesic",
    "inverse_geometric_mean",
    "project_eigenvalues",
    "symmetric",
]


def inverse_geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    r"""The geometric mean :math:`G = A^{-1} \# B` of symmetric positive definite matrices.

    It is the only positive definite solution of G A G = B. With the Cholesky factor A = L L^T,

    .. math:: G = L^{-T} (L^T B L)^{1/2} L^{-1}

    where the root comes from a symmetric eigendecomposition.

    Args:
        a, b: Shape (..., d, d), symmetric positive definite.

    Raises:
        torch.linalg.LinAlgError: If a matrix is not positive definite or not finite.
    """
    factor = torch.linalg.cholesky(a)
    inner = _power(symmetric(factor.mT @ b @ factor), 0.5)
    half = torch.linalg.solve_triangular(factor.mT, inner, upper=True)
    return symmetric(torch.linalg.solve_triangular(factor, half, upper=False, left=False))


def geodesic(a: Tensor, b: Tensor, t: float) -> Tensor:
    r"""The weighted geometric mean :math:`A \#_t B = L (L^{-1} B L^{-T})^t L^T`, A = L L^T.

    The matrix form of :math:`a^{1-t} b^t`: how damping moves a covariance.

    Args and errors are those of `inverse_geometric_mean`, with t in [0, 1].
    """
    factor = torch.linalg.cholesky(a)
    half = torch.linalg.solve_triangular(factor, b, upper=False)
    inner = torch.linalg.solve_triangular(factor.mT, half, upper=True, left=False)
    return symmetric(factor @ _power(symmetric(inner), t) @ factor.mT)


def dense_pairwise_kl(means: Tensor, covariances: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence, in nats, between every pair of gaussians.

    .. math:: KL(y \| y') = \frac12 \left[ tr(\Sigma_{y'}^{-1} \Sigma_y) + (\mu_y - \mu_{y'})^T
              \Sigma_{y'}^{-1} (\mu_y - \mu_{y'}) - d + \log \frac{|\Sigma_{y'}|}{|\Sigma_y|}
              \right]

    Args:
        means: Shape (K, d), float64.
        covariances: Shape (K, d, d), float64.

    Returns:
        Shape (K, K), at least 0, exactly 0 on the diagonal. Differentiable.
    """
    classes, dim = means.shape
    factors = torch.linalg.cholesky(covariances)
    precisions = torch.cholesky_inverse(factors).flatten(1)
    centred = means - means.mean(dim=0)
    scaled = _apply(precisions, centred)
    products = centred @ scaled.T
    logdet = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    ratios = (covariances + _outer(centred, centred)).flatten(1) @ precisions.T
    kl = 0.5 * (ratios - 2 * products + (products.diagonal() + logdet) - dim - logdet[:, None])
    eye = torch.eye(classes, dtype=torch.bool, device=kl.device)
    return kl.clamp(min=0).masked_fill(eye, 0.0)


def dense_mean_update(
    data_means: Tensor, means: Tensor, covariances: Tensor, kernel: Tensor, weight: float
) -> Tensor:
    r"""One undamped mean update (Eq. 5).

    .. math:: \mu_y \leftarrow m_y + c\, \Sigma_y \sum_{y'} \left(K_{yy'} \Sigma_{y'}^{-1} +
              K_{y'y} \Sigma_y^{-1}\right) (\mu_y - \mu_{y'})

    Args:
        data_means: m, shape (K, d).
        means: mu, shape (K, d).
        covariances: Sigma, shape (K, d, d).
        kernel: Shape (K, K).
        weight: c.
    """
    centred = means - means.mean(dim=0)
    precisions = _inverse(covariances).flatten(1)
    sent = _apply(kernel @ precisions, centred) - kernel @ _apply(precisions, centred)
    received = centred * kernel.sum(dim=0)[:, None] - kernel.T @ centred
    return data_means + weight * (_apply(covariances, sent) + received)


def dense_released_update(
    data_covariances: Tensor, means: Tensor, covariances: Tensor, kernel: Tensor, weight: float
) -> Tensor:
    r"""One undamped covariance update, :math:`(\Sigma A \Sigma)^{-1} \# B`: see `released_update`.

    .. math:: \Sigma_y A \Sigma_y = \Sigma_y \Big(1 + c \sum_{y'} (K_{yy'} - K_{y'y})\Big) +
              c \sum_{y'} K_{y'y} \left[(\mu_y - \mu_{y'})(\mu_y - \mu_{y'})^T + \Sigma_{y'}\right],
              \quad B = S_y + c\, \Sigma_y \Big(\sum_{y'} K_{yy'} \Sigma_{y'}^{-1}\Big) \Sigma_y

    A class for which cancellation leaves too little of the first is split as in the diagonal case.
    """
    spread, attraction, sent, received = _sums(means, covariances, kernel)
    a = covariances * (1 + weight * (sent - received)) + weight * spread
    b = data_covariances + weight * attraction
    extra = weight * received * covariances
    cancelled = (torch.linalg.cholesky_ex(symmetric(a - extra / 9)).info > 0)[:, None, None]
    a = torch.where(cancelled, a + extra, a)
    b = torch.where(cancelled, b + extra @ covariances @ covariances, b)
    return inverse_geometric_mean(symmetric(a), symmetric(b))


def dense_proposition1_update(
    data_means: Tensor,
    data_covariances: Tensor,
    means: Tensor,
    covariances: Tensor,
    kernel: Tensor,
    weight: float,
) -> Tensor:
    r"""One undamped covariance update of Proposition 1, split: :math:`A^{-1} \# B`.

    .. math:: A = \Big(1 + c \sum_{y'} K_{yy'}\Big) \Sigma_y^{-1} + c\, \Sigma_y^{-1} \sum_{y'}
              K_{y'y} \left[(\mu_y - \mu_{y'})(\mu_y - \mu_{y'})^T + \Sigma_{y'}\right]
              \Sigma_y^{-1}

    .. math:: B = S_y + (m_y - \mu_y)(m_y - \mu_y)^T + c\, \Sigma_y \Big(\sum_{y'} K_{yy'}
              \Sigma_{y'}^{-1}\Big) \Sigma_y + c \sum_{y'} K_{y'y}\, \Sigma_y

    Eq. 7 prints the first covariance of B's third term as that of y'; it must be that of y.
    """
    spread, attraction, sent, received = _sums(means, covariances, kernel)
    precisions = _inverse(covariances)
    a = precisions * (1 + weight * sent) + weight * precisions @ spread @ precisions
    errors = data_means - means
    b = data_covariances + _outer(errors, errors) + weight * (attraction + received * covariances)
    return inverse_geometric_mean(symmetric(a), symmetric(b))


def dense_objective(
    data_means: Tensor,
    data_covariances: Tensor,
    means: Tensor,
    covariances: Tensor,
    weight: float,
    *,
    pi: Pi = "forward",
    alpha: float = 10.0,
) -> Tensor:
    """The objective J, as `objective`, for full covariances; a differentiable scalar, in nats."""
    factors = torch.linalg.cholesky(covariances)
    errors = data_means - means
    scatter = data_covariances + _outer(errors, errors)
    logdet = 2 * factors.diagonal(dim1=1, dim2=2).log().sum()
    nll = 0.5 * ((torch.cholesky_inverse(factors) * scatter).sum() + logdet)
    nll = nll + 0.5 * means.numel() * math.log(2 * math.pi)
    kl = dense_pairwise_kl(means, covariances)
    return nll + weight * divergence_penalty(kl, pi, alpha)


def project_eigenvalues(x: Tensor, low: float, high: float) -> Tensor:
    """The nearest matrix, in Frobenius norm, whose eigenvalues lie in [low, high]; (..., d, d)."""
    values, vectors = torch.linalg.eigh(x)
    return symmetric((vectors * values.clamp(low, high)[..., None, :]) @ vectors.mT)


def symmetric(x: Tensor) -> Tensor:
    """The symmetric part: rounding breaks symmetry, and decompositions read one triangle only."""
    return 0.5 * (x + x.mT)


def _sums(
    means: Tensor, covariances: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums over classes of both rules.

    sum K_y'y [(mu_y - mu_y')(mu_y - mu_y')^T + Sigma_y'] and Sigma_y (sum K_yy' Sigma_y'^-1)
    Sigma_y, both (K, d, d); sum K_yy' and sum K_y'y, both (K, 1, 1).
    """
    centred = means - means.mean(dim=0)
    sent, received = kernel.sum(dim=1)[:, None, None], kernel.sum(dim=0)[:, None, None]
    squares = _outer(centred, centred)
    cross = _outer(centred, kernel.T @ centred)
    spread = (kernel.T @ (squares + covariances).flatten(1)).view_as(covariances)
    spread = spread + received * squares - cross - cross.mT
    attraction = (kernel @ _inverse(covariances).flatten(1)).view_as(covariances)
    return spread, covariances @ attraction @ covariances, sent, received


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return x[:, :, None] * y[:, None, :]


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Each class's matrix, (K, d, d) or (K, d^2), times its vector (K, d)."""
    classes, dim = vectors.shape
    return (matrices.view(classes, dim, dim) @ vectors[:, :, None]).squeeze(2)


def _inverse(x: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(x))


def _power(x: Tensor, t: float) -> Tensor:
    """A power of a symmetric matrix whose eigenvalues are at least 0 but for rounding."""
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values.clamp(min=0).pow(t)[..., None, :]) @ vectors.mT
