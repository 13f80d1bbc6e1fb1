r"""The fixed point with full covariance matrices: an oracle of the diagonal solver.

The equations are those of `nfaug.classes.fixed_point.rules`, with matrices S_y (data) and Sigma_y
in place of s_y and v_y. An update takes O(K^2 d^2 + K d^3) time and O(K d^2) memory. All tensors
are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nfaug.classes.fixed_point import solver
from nfaug.classes.fixed_point.config import FixedPointConfig, FixedPointResult
from nfaug.classes.fixed_point.rules import class_kernel, mean_update, zero_diagonal
from nfaug.classes.fixed_point.solver import State, StepReport


def solve_dense(
    data_means: Tensor,
    data_covariances: Tensor,
    config: FixedPointConfig | None = None,
    *,
    start: tuple[Tensor, Tensor] | None = None,
) -> FixedPointResult:
    """`solve` with full covariances.

    Both give the same result if all covariances are diagonal and the means differ along one axis.
    Damping moves covariances along the geodesic, ``variance_bounds`` clamps eigenvalues, and the
    residual is a Frobenius norm.

    Args:
        data_means: m, shape (K, d).
        data_covariances: S, shape (K, d, d), symmetric positive definite.
        config: As for `solve`.
        start: Initial means and covariances; the data's if None.

    Returns:
        Finite gaussians whose ``variances`` are covariances of shape (K, d, d).

    Raises:
        ValueError: If an input is invalid, for example a singular covariance.
        FixedPointDivergence: If a gaussian leaves the range of positive finite numbers.
    """
    config = FixedPointConfig() if config is None else config
    data = _check_dense(data_means, data_covariances, "data")
    means, covariances = data if start is None else _check_dense(*start, "start")
    solver.check_classes(means)
    if config.fit == "means":  # the covariances are identities
        result = solver.solve(data[0], torch.ones_like(means), config)
        return replace(result, variances=result.variances.diag_embed())
    means = (data[0] if config.fit == "covariances" else means).clone()
    covariances = _project(covariances, config).clone()
    weight = config.weight(*means.shape)
    limits = solver.variance_range(data[1].diagonal(dim1=1, dim2=2))

    def step(state: State, following: State) -> StepReport:
        mu, sigma = state
        mean_moves = mu.new_zeros(len(mu))
        try:
            kl = dense_pairwise_kl(mu, sigma)
            kernel = class_kernel(kl, config.kernel, config.alpha)
            new_mu, new_sigma = dense_update(data, state, kernel, weight, config)
            following[1].copy_(geodesic(sigma, new_sigma, config.damping))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined, unused-ignore]
            # A covariance is no longer positive definite in float64: report the most extreme one.
            low, high = sigma.diagonal(dim1=1, dim2=2).aminmax(dim=1)
            extent = torch.maximum(high, 1 / low)
            return StepReport(mean_moves.diag(), mean_moves, mean_moves, extent == extent.max())
        if config.fit == "both":
            mean_moves = torch.linalg.vector_norm(new_mu - mu, dim=1)
            torch.add(mu, new_mu - mu, alpha=config.damping, out=following[0])
        moves = torch.linalg.matrix_norm(new_sigma - sigma)
        low, high = new_sigma.diagonal(dim1=1, dim2=2).aminmax(dim=1)
        inside = (low > limits[0]) & (high < limits[1]) & mean_moves.isfinite() & moves.isfinite()
        return StepReport(kl, mean_moves, moves, ~inside)

    return solver.iterate(step, (means, covariances), config, weight)


def dense_update(
    data: State, state: State, kernel: Tensor, weight: float, config: FixedPointConfig
) -> State:
    r"""One undamped update of mu (K, d) and Sigma (K, d, d), given the kernel (K, K).

    .. math:: \mu_y \leftarrow m_y + c\, \Sigma_y \sum_{y'} \left(K_{yy'} \Sigma_{y'}^{-1} +
              K_{y'y} \Sigma_y^{-1}\right) (\mu_y - \mu_{y'}), \quad \Sigma_y \leftarrow A^{-1} \# B

    A and B are those of `proposition1_update` or `released_update`, with
    :math:`(\mu_y - \mu_{y'})(\mu_y - \mu_{y'})^T` for squares,
    :math:`\Sigma_y^{-1} X \Sigma_y^{-1}` for :math:`x / v_y^2` and
    :math:`\Sigma_y \Sigma_{y'}^{-1} \Sigma_y` for :math:`v_y^2 / v_{y'}` (Eq. 7 misprints its first
    factor). A matrix that is not positive definite raises ``torch.linalg.LinAlgError``.
    """
    (m, s), (means, covariances) = data, state
    precisions = torch.cholesky_inverse(torch.linalg.cholesky(covariances))
    centred = means - means.mean(dim=0)
    sent, received = kernel.sum(dim=1)[:, None, None], kernel.sum(dim=0)[:, None, None]
    attraction = (kernel @ precisions.flatten(1)).view_as(covariances)
    if config.isotropic_mean_step:
        average = covariances.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
        new_means = mean_update(m, means, average, kernel, weight)
    else:
        force = _apply(attraction, centred) - kernel @ _apply(precisions, centred)
        force = _apply(covariances, force) + centred * received[:, 0] - kernel.T @ centred
        new_means = m + weight * force
    squares = centred[:, :, None] * centred[:, None, :]
    cross = centred[:, :, None] * (kernel.T @ centred)[:, None, :]
    spread = (kernel.T @ (squares + covariances).flatten(1)).view_as(covariances)
    spread = spread + received * squares - cross - cross.mT
    b = s + weight * covariances @ attraction @ covariances
    if config.update == "released":
        a = covariances * (1 + weight * (sent - received)) + weight * spread
        extra = weight * received * covariances
        cancelled = (torch.linalg.cholesky_ex(_symmetric(a - extra / 9)).info > 0)[:, None, None]
        a = torch.where(cancelled, a + extra, a)
        b = torch.where(cancelled, b + extra @ covariances @ covariances, b)
    else:
        a = precisions * (1 + weight * sent) + weight * precisions @ spread @ precisions
        errors = m - means
        b = b + errors[:, :, None] * errors[:, None, :] + weight * received * covariances
    return new_means, _project(inverse_geometric_mean(_symmetric(a), b), config)


def dense_pairwise_kl(means: Tensor, covariances: Tensor) -> Tensor:
    """`pairwise_kl` for covariances of shape (K, d, d), in nats, shape (K, K). Differentiable."""
    factors = torch.linalg.cholesky(covariances)
    precisions = torch.cholesky_inverse(factors).flatten(1)
    centred = means - means.mean(dim=0)
    products = centred @ _apply(precisions, centred).T
    logdet = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    moments = covariances + centred[:, :, None] * centred[:, None, :]
    traces = moments.flatten(1) @ precisions.T
    kl = traces - 2 * products + products.diagonal() + logdet - logdet[:, None] - means.shape[1]
    return zero_diagonal((0.5 * kl).clamp(min=0))


def inverse_geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`A^{-1} \# B = L^{-T} (L^T B L)^{1/2} L^{-1}` with A = L L^T; solves G A G = B."""
    factor = torch.linalg.cholesky(a)
    root = _spectral(factor.mT @ b @ factor, lambda x: x.clamp(min=0).sqrt())
    half = torch.linalg.solve_triangular(factor.mT, root, upper=True)
    return _symmetric(torch.linalg.solve_triangular(factor, half, upper=False, left=False))


def geodesic(a: Tensor, b: Tensor, t: float) -> Tensor:
    r"""The matrix form of :math:`a^{1-t} b^t`: :math:`L (L^{-1} B L^{-T})^t L^T`, A = L L^T."""
    factor = torch.linalg.cholesky(a)
    half = torch.linalg.solve_triangular(factor, b, upper=False)
    inner = torch.linalg.solve_triangular(factor.mT, half, upper=True, left=False)
    return _symmetric(factor @ _spectral(inner, lambda x: x.clamp(min=0) ** t) @ factor.mT)


def _check_dense(means: Tensor, covariances: Tensor, name: str) -> State:
    """Check means, and that covariances are symmetric positive definite; return float64."""
    means = solver.as_double(means, torch.ones_like(means))[0]
    shape = (*means.shape, means.shape[1])
    if covariances.shape != shape or not covariances.is_floating_point():
        raise ValueError(
            f"{name} covariances must be floating point of shape {shape}, got {covariances.dtype} "
            f"of shape {tuple(covariances.shape)}"
        )
    x = covariances.detach().double()
    gap, size = (y.abs().flatten(1).amax(dim=1) for y in (x - x.mT, x))
    advice = "use more samples than coordinates or add a multiple of the identity"
    for wanted, good in (
        ("finite and symmetric", gap <= 1e-6 * size),
        (f"positive definite; {advice}", torch.linalg.cholesky_ex(x).info == 0),
    ):
        if not bool(good.all()):
            worst = int((~good).nonzero()[0])
            raise ValueError(f"{name} covariance of class {worst} is not {wanted}")
    return means, _symmetric(x)


def _project(x: Tensor, config: FixedPointConfig) -> Tensor:
    """The nearest matrices with eigenvalues within the variance bounds."""
    low, high = config.variance_bounds or (None, None)
    return x if low is None else _spectral(x, lambda values: values.clamp(low, high))


def _spectral(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the eigenvalues of symmetric matrices."""
    values, vectors = torch.linalg.eigh(_symmetric(x))
    return _symmetric((vectors * function(values)[..., None, :]) @ vectors.mT)


def _symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Each class's matrix, (K, d, d) or (K, d^2), times its vector (K, d)."""
    return torch.einsum("kij,kj->ki", matrices.view(*vectors.shape, -1), vectors)
