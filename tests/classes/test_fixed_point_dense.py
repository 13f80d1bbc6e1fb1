from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from dense_oracle import (
    dense_pairwise_kl,
    dense_update,
    geodesic,
    inverse_geometric_mean,
    solve_dense,
)
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from nfaug.classes.fixed_point import (
    FixedPointConfig,
    FixedPointDivergence,
    class_kernel,
    objective,
    solve,
)
from nfaug.classes.fixed_point.rules import divergence_penalty

CLASSES, DIM = 4, 3
EXACT = {"rtol": 1e-10, "atol": 1e-13}


def positive_definite(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(*shape, shape[-1], generator=generator, dtype=torch.float64)
    return root @ root.mT / shape[-1] + 0.3 * torch.eye(shape[-1], dtype=torch.float64)


def draw(seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)
    return spread * means + 3, positive_definite(CLASSES, DIM, seed=seed)


def root(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return vectors @ values.sqrt().diag() @ vectors.T


# The equations again, class by class, with explicit inverses and matrix square roots.


def direct_kl(means: Tensor, covariances: Tensor) -> Tensor:
    kl = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    for y in range(CLASSES):
        for other in range(CLASSES):
            inverse = torch.linalg.inv(covariances[other])
            difference = means[y] - means[other]
            kl[y, other] = 0.5 * (
                (inverse @ covariances[y]).trace()
                + difference @ inverse @ difference
                - DIM
                + torch.log(torch.det(covariances[other]) / torch.det(covariances[y]))
            )
    return kl


def direct_means(m: Tensor, mu: Tensor, sigma: Tensor, kernel: Tensor, c: float) -> Tensor:
    result = m.clone()
    inverses = [torch.linalg.inv(x) for x in sigma]
    for y in range(CLASSES):
        for other in range(CLASSES):
            both = kernel[y, other] * inverses[other] + kernel[other, y] * inverses[y]
            result[y] += c * sigma[y] @ both @ (mu[y] - mu[other])
    return result


def direct_covariances(
    data: tuple[Tensor, Tensor], mu: Tensor, sigma: Tensor, kernel: Tensor, c: float, rule: str
) -> Tensor:
    """Eqs. 6 and 7 with Eq. 6's own square roots; A and B are the design's."""
    m, s = data
    result = torch.zeros_like(sigma)
    for y in range(CLASSES):
        inverse = torch.linalg.inv(sigma[y])
        a, b = inverse.clone(), s[y].clone()
        for other in range(CLASSES):
            out, back = kernel[y, other], kernel[other, y]
            difference = mu[y] - mu[other]
            scatter = torch.outer(difference, difference) + sigma[other]
            a += c * out * inverse + c * back * inverse @ scatter @ inverse
            b += c * out * sigma[y] @ torch.linalg.inv(sigma[other]) @ sigma[y]
            if rule == "released":
                a -= c * back * inverse
            else:  # the positive splitting
                b += c * back * sigma[y]
        if rule == "released":
            a = sigma[y] @ a @ sigma[y]
        else:
            b += torch.outer(m[y] - mu[y], m[y] - mu[y])
        half = root(a)
        result[y] = torch.linalg.inv(half) @ root(half @ b @ half) @ torch.linalg.inv(half)
    return result


def dense_objective(
    data: tuple[Tensor, Tensor], means: Tensor, covariances: Tensor, weight: float, alpha: float
) -> Tensor:
    """The objective J: the mean negative log-likelihood of each class, and the divergence term."""
    m, s = data
    inverses = torch.linalg.inv(covariances)
    scatter = s + torch.einsum("ki,kj->kij", m - means, m - means)
    logdet = torch.logdet(2 * torch.pi * covariances).sum()
    nll = 0.5 * ((inverses * scatter).sum() + logdet)
    return nll + weight * divergence_penalty(dense_pairwise_kl(means, covariances), alpha=alpha)


@pytest.fixture
def state() -> tuple[Tensor, Tensor]:
    return draw(seed=1)


@pytest.fixture
def kernel(state: tuple[Tensor, Tensor]) -> Tensor:
    return class_kernel(dense_pairwise_kl(*state))


def test_kl_against_loops_and_torch_distributions(state: tuple[Tensor, Tensor]) -> None:
    found = dense_pairwise_kl(*state)
    torch.testing.assert_close(found, direct_kl(*state), **EXACT)
    normals = [MultivariateNormal(*parameters) for parameters in zip(*state, strict=True)]
    expected = [torch.stack([kl_divergence(p, q) for q in normals]) for p in normals]
    torch.testing.assert_close(found, torch.stack(expected), **EXACT)


def test_mean_update_against_loops(state: tuple[Tensor, Tensor], kernel: Tensor) -> None:
    data = draw()
    expected = direct_means(data[0], *state, kernel, 30.0)
    config = FixedPointConfig(isotropic_mean_step=False)
    found, _ = dense_update(data, state, kernel, 30.0, config)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("update", ["proposition1", "released"])
def test_covariance_updates_against_loops(
    state: tuple[Tensor, Tensor], kernel: Tensor, update: Any
) -> None:
    data = draw()
    expected = direct_covariances(data, *state, kernel, 30.0, update)
    _, found = dense_update(data, state, kernel, 30.0, FixedPointConfig(update=update))
    torch.testing.assert_close(found, expected, **EXACT)


def test_geometric_mean() -> None:
    a, b = positive_definite(6, 5), positive_definite(6, 5, seed=1)
    mean = inverse_geometric_mean(a, b)
    torch.testing.assert_close(mean @ a @ mean, b, **EXACT)
    assert torch.equal(mean, mean.mT)
    assert (torch.linalg.eigvalsh(mean) > 0).all()
    # Congruence: (C A^-1 C^T) # (C B C^T) = C (A^-1 # B) C^T.
    generator = torch.Generator().manual_seed(2)
    c = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(c)
    moved = inverse_geometric_mean(inverse.T @ a @ inverse, c @ b @ c.T)
    torch.testing.assert_close(moved, c @ mean @ c.T, rtol=1e-9, atol=1e-10)
    # Self-duality: (A^-1 # B)^-1 = B^-1 # A.
    torch.testing.assert_close(torch.linalg.inv(mean), inverse_geometric_mean(b, a), **EXACT)


def test_geodesic() -> None:
    a, b = positive_definite(6, 5), positive_definite(6, 5, seed=1)
    torch.testing.assert_close(geodesic(a, b, 0.0), a, **EXACT)
    torch.testing.assert_close(geodesic(a, b, 1.0), b, **EXACT)
    middle = inverse_geometric_mean(torch.linalg.inv(a), b)
    torch.testing.assert_close(geodesic(a, b, 0.5), middle, **EXACT)
    torch.testing.assert_close(geodesic(a, b, 0.3), geodesic(b, a, 0.7), **EXACT)
    numbers = [torch.tensor([[[x]]], dtype=torch.float64) for x in (2.0, 5.0)]
    assert float(geodesic(*numbers, 0.3)) == pytest.approx(2**0.7 * 5**0.3)


@pytest.mark.parametrize("update", ["proposition1", "released"])
def test_without_the_divergence_term(update: str) -> None:
    m, s = draw()
    config = FixedPointConfig(fit="both", kld_weight=0, update=update, tolerance=1e-12)
    identity = torch.eye(DIM, dtype=torch.float64).expand_as(s)
    result = solve_dense(m, s, config, start=(m + 1, identity))
    assert result.converged
    torch.testing.assert_close(result.means, m, rtol=1e-9, atol=0)
    values, vectors = torch.linalg.eigh(s)
    cube_root = vectors * values[:, None].pow(1 / 3) @ vectors.mT
    expected = s if update == "proposition1" else cube_root
    torch.testing.assert_close(result.variances, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bounds", [None, (0.4, 1.2)])
@pytest.mark.parametrize("kernel", ["forward", "mean"])
@pytest.mark.parametrize("update", ["proposition1", "released"])
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("fit", ["means", "covariances", "both"])
def test_on_diagonal_inputs_it_equals_the_diagonal_solver(
    fit: str, isotropic: bool, update: str, kernel: str, bounds: tuple[float, float] | None
) -> None:
    """Diagonal all through: (mu - mu')(mu - mu')^T is a term of A, so means differ on one axis."""
    m, s = draw(spread=2.0)
    m[:, 1:] = m[0, 1:]
    s = s.diagonal(dim1=1, dim2=2)
    config = FixedPointConfig(
        fit=fit,
        kld_weight=1.0,
        kernel=kernel,
        update=update,
        isotropic_mean_step=isotropic,
        tolerance=1e-4,
        variance_bounds=bounds,
    )
    expected = solve(m, s, config)
    found = solve_dense(m, s.diag_embed(), config)
    assert found.iterations == expected.iterations
    assert found.residual == pytest.approx(expected.residual, rel=1e-6)
    torch.testing.assert_close(found.means, expected.means, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        found.variances, expected.variances.diag_embed(), rtol=1e-10, atol=1e-10
    )


def test_means_off_the_axes_make_covariances_dense() -> None:
    m, s = draw(spread=2.0)
    s = s.diagonal(dim1=1, dim2=2).diag_embed()
    result = solve_dense(m, s, FixedPointConfig(fit="both", kld_weight=1.0))
    assert (result.variances - result.variances.diagonal(dim1=1, dim2=2).diag_embed()).norm() > 0.1


def test_objective_on_diagonal_inputs_equals_the_diagonal_one(
    state: tuple[Tensor, Tensor],
) -> None:
    m, s = draw()
    means, v = state[0], state[1].diagonal(dim1=1, dim2=2)
    s = s.diagonal(dim1=1, dim2=2)
    found = dense_objective((m, s.diag_embed()), means, v.diag_embed(), 30.0, alpha=2.0)
    torch.testing.assert_close(found, objective(m, s, means, v, 30.0, alpha=2.0))


@pytest.mark.parametrize("fit", ["covariances", "both"])
def test_a_converged_solve_is_stationary(fit: str) -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(
        fit=fit,
        kld_weight=0.5,
        update="proposition1",
        isotropic_mean_step=False,
        damping=0.9,
        tolerance=1e-9,
        max_iterations=1000,
    )
    result = solve_dense(*data, config)
    assert result.converged
    assert (result.variances - data[1]).norm() > 1e-2
    point = result.means.clone().requires_grad_(), result.variances.clone().requires_grad_()
    found = torch.autograd.grad(dense_objective(data, *point, 0.5, alpha=10.0), point)
    scale = torch.autograd.grad(dense_objective(data, *point, 0.0, alpha=10.0), point)
    if fit == "both":
        assert found[0].norm() < 1e-6 * scale[0].norm()
    symmetric = found[1] + found[1].mT
    assert symmetric.norm() < 1e-6 * scale[1].norm()


def test_released_stays_positive_definite_where_a_does_not(state: tuple[Tensor, Tensor]) -> None:
    data = draw()
    means, covariances = state
    covariances = covariances.clone()
    covariances[0] *= 40
    kernel = class_kernel(dense_pairwise_kl(means, covariances))
    _, found = dense_update(data, (means, covariances), kernel, 30.0, FixedPointConfig())
    assert (torch.linalg.eigvalsh(found) > 0).all()


def test_divergence_and_bounds() -> None:
    data = draw()
    config = FixedPointConfig(fit="both", kld_weight=300, update="proposition1")
    with pytest.raises(FixedPointDivergence, match="variance_bounds") as caught:
        solve_dense(*data, config)
    assert len(caught.value.history) == caught.value.iteration - 1
    result = solve_dense(*data, dataclasses.replace(config, variance_bounds=(0.1, 10.0)))
    values = torch.linalg.eigvalsh(result.variances)
    assert ((values > 0.1 - 1e-9) & (values < 10 + 1e-9)).all()
    assert result.means.isfinite().all()


def test_inputs_are_left_alone() -> None:
    data = draw()
    copies = [x.clone() for x in data]
    for fit in ("means", "covariances", "both"):
        result = solve_dense(*data, FixedPointConfig(fit=fit, kld_weight=0.5))
        result.means.zero_()
        result.variances.zero_()
    assert all(torch.equal(x, copy) for x, copy in zip(data, copies, strict=True))


def test_bad_data() -> None:
    m, s = draw()
    skew = s.clone()
    skew[2, 0, 1] += 0.1
    singular = s.clone()
    singular[1] = torch.ones(DIM, DIM)
    nan = s.clone()
    nan[3] = torch.nan
    for covariances, token in (
        (s[:, 0], r"\(4, 3\)"),
        (skew, "symmetric"),
        (singular, "definite"),
        (nan, "class 3"),
    ):
        with pytest.raises(ValueError, match=token):
            solve_dense(m, covariances)
    with pytest.raises(ValueError, match="got 1"):
        solve_dense(m[:1], s[:1])
