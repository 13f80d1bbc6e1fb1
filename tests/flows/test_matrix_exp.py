from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from nfaug.flows.matrix_exp import expm, expm_action, phi_action, special_orthogonal_log
from nfaug.flows.taylor import taylor_terms


def draw(n: int, norm: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return matrices (2, n, n, 3, 5) with row sums up to `norm`, columns first, and vectors."""
    generator = torch.Generator().manual_seed(n)
    matrices = torch.rand(2, n, n, 3, 5, generator=generator, dtype=torch.float64) * 2 - 1
    x = torch.randn(2, n, 3, 5, generator=generator, dtype=torch.float64)
    return (matrices * norm / n).to(dtype), x.to(dtype)


def dense(matrices: Tensor) -> Tensor:
    """Return M of shape (B, H, W, i, j)."""
    return matrices.permute(0, 3, 4, 2, 1).contiguous()


def act(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply one dense matrix per pixel."""
    return torch.einsum("bhwij,bjhw->bihw", matrix, x)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [1, 2, 6, 24])
def test_action_is_the_exponential(n: int, sign: int) -> None:
    matrices, x = draw(n, 2.0)
    y = expm_action(matrices, x, taylor_terms(2.0, 2.0**-53), sign=sign)
    expected = act(torch.linalg.matrix_exp(sign * dense(matrices)), x)
    assert torch.allclose(y, expected, atol=1e-13)


@pytest.mark.parametrize("norm", [0.5, 2.0, 8.0])
def test_number_of_terms_is_enough_in_float32(norm: float) -> None:
    matrices, x = draw(6, norm, torch.float32)
    y = expm_action(matrices, x, taylor_terms(norm))
    expected = act(torch.linalg.matrix_exp(dense(matrices.double())), x.double())
    assert torch.allclose(y.double(), expected, atol=1e-6 * math.exp(norm))


@pytest.mark.parametrize("sign", [1, -1])
def test_phi_is_the_divided_difference_of_the_exponential(sign: int) -> None:
    matrices, x = draw(3, 2.0)
    y = phi_action(matrices, x, taylor_terms(2.0, 2.0**-53), sign=sign)
    m = sign * dense(matrices)
    expected = act(torch.linalg.matrix_exp(m), x) - x  # M phi(M) = exp(M) - 1
    assert torch.allclose(act(m, y), expected, atol=1e-13)


def test_gradients() -> None:
    matrices, x = (tensor[:1, ..., :1, :2].requires_grad_() for tensor in draw(3, 1.5))
    assert gradcheck(lambda m, v: expm_action(m, v, 18, sign=-1), (matrices, x))
    assert gradcheck(lambda m, v: phi_action(m, v, 18), (matrices, x))
    assert gradcheck(expm, (torch.randn(4, 4, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("bound", [-1.0, 30.5, math.inf, math.nan])
def test_too_large_norms_are_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=rf"norm {bound}"):
        taylor_terms(bound)


@pytest.mark.parametrize("norm", [0.0, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("n", [1, 48])
def test_expm_of_one_matrix(n: int, norm: float) -> None:
    generator = torch.Generator().manual_seed(n)
    w = torch.randn(n, n, generator=generator, dtype=torch.float64)
    skew = (w - w.T) / 2
    skew = skew * norm / torch.linalg.matrix_norm(skew, 2).clamp_min(1e-9)
    w = skew + 0.02 * w  # trained weights are near the logarithm of a rotation
    expected = torch.linalg.matrix_exp(w)
    assert torch.allclose(expm(w), expected, atol=1e-11 * float(expected.abs().max()))
    single = expm(w.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_log_of_a_rotation(n: int) -> None:
    torch.manual_seed(7)
    log = special_orthogonal_log(n).double()
    assert torch.equal(log, -log.T)
    rotation = torch.linalg.matrix_exp(log)
    assert torch.allclose(rotation @ rotation.T, torch.eye(n, dtype=torch.float64), atol=1e-6)
    assert torch.linalg.det(rotation) == pytest.approx(1)
    torch.manual_seed(7)
    assert torch.equal(log, special_orthogonal_log(n).double())
