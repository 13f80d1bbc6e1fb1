"""Actions of many small matrix exponentials, and the exponential of one small matrix.

exp(M) x takes n^2 multiplications per Taylor term, exp(M) takes n^3 (Al-Mohy & Higham 2011,
doi:10.1137/100788860). The number of terms is a constant, so no value is copied from the device,
the result does not depend on the batch, and compilers see code without branches.

There are two forms. `expm_action` and `phi_action` add up terms by operations over all pixels,
which suits a CPU and the backward pass. A GPU spends its time on launching them: three a term.
`row_series` takes nine launches for any usual number of terms, by products of matrices, which a
CPU computes two to four times more slowly for matrices as small as these.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_GROUP = 4  # terms that `row_series` adds up at a time
_SQUARINGS = 5  # in `expm`: with degree 16, exact to float32 rounding for norms up to 64


def _horner(matrices: Tensor, x: Tensor, coefficients: list[float]) -> Tensor:
    """Return x + c_1 M (x + c_2 M (x + ...))."""
    learning = torch.is_grad_enabled() and (matrices.requires_grad or x.requires_grad)
    if learning and not torch.compiler.is_compiling():
        return _Horner.apply(matrices, x, coefficients)
    y = x
    for c in reversed(coefficients):
        y = torch.add(x, _product(matrices, y), alpha=c)
    return y


def _product(matrices: Tensor, x: Tensor) -> Tensor:
    """Return y_i = sum_j M[i, j] x_j with `matrices[:, j, i]` = M[i, j]."""
    return (matrices * x.unsqueeze(2)).sum(1)


class _Horner(torch.autograd.Function):
    """`_horner` with a backward pass that reads the matrices half as often as autograd's.

    With y_m = x and y_(k-1) = x + c_k M y_k, the adjoints are g_0 = g and g_k = c_k M^T g_(k-1);
    dx = sum_k g_k and dM = sum_k c_k g_(k-1) y_k^T.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, x: Tensor, coefficients: list[float]) -> Tensor:
        partial = _partial_sums(matrices, x, coefficients)
        result = partial.pop()
        ctx.coefficients = coefficients
        ctx.save_for_backward(matrices, *partial)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        matrices, *partial = ctx.saved_tensors
        if torch.is_grad_enabled():
            # This pass is differentiated as well (create_graph=True). Autograd takes the saved sums
            # y_k for constants, so they are computed again from M and x.
            partial = _partial_sums(matrices, partial[0], ctx.coefficients)[:-1]
        dx = g.clone()
        dm = torch.zeros_like(matrices)
        for c, y in zip(ctx.coefficients, reversed(partial), strict=True):
            dm.addcmul_(y.unsqueeze(2), g.unsqueeze(1), value=c)
            g = (matrices * g.unsqueeze(1)).sum(2).mul_(c)
            dx += g
        return dm, dx, None


def _partial_sums(matrices: Tensor, x: Tensor, coefficients: list[float]) -> list[Tensor]:
    """Return y_m = x, y_(m-1), ..., y_0, with y_(k-1) = x + c_k M y_k."""
    sums = [x]
    for c in reversed(coefficients):
        sums.append(torch.add(x, _product(matrices, sums[-1]), alpha=c))
    return sums


def expm_action(matrices: Tensor, x: Tensor, terms: int, *, sign: int = 1) -> Tensor:
    """Return y = exp(sign*M) x = sum_k (sign*M)^k x / k! with one matrix per pixel.

    Args:
        matrices: Shape (B, n, n, H, W), with `matrices[:, j, i]` = M[i, j]: columns first, the
            order of the coupling network's output.
        x: Shape (B, n, H, W), like the result.
        terms: Number of terms of the series.
        sign: 1 or -1.
    """
    return _horner(matrices, x, [sign / k for k in range(1, terms + 1)])


def phi_action(matrices: Tensor, x: Tensor, terms: int, *, sign: int = 1) -> Tensor:
    """Return y = phi(sign*M) x, phi(M) = sum_k M^k/(k + 1)!; shapes as in `expm_action`."""
    return _horner(matrices, x, [sign / (k + 1) for k in range(1, terms + 1)])


def series_weights(terms: int, *, divided: bool = False) -> Tensor:
    """Return weights for `row_series`, (2, groups, 4): those of exp(A), and those of exp(-A).

    With `divided` they are those of phi(A) and phi(-A). Entry [s, m, j] is (-1)^(s k)/k!, or
    (-1)^(s k)/(k + 1)!, of term k = 4m + j, and 0 beyond the last term.
    """
    groups = terms // _GROUP + 1
    weights = torch.zeros(2, groups * _GROUP, dtype=torch.float64, device="cpu")
    for k in range(terms + 1):
        weights[0, k] = 1 / math.factorial(k + divided)
        weights[1, k] = (-1) ** k * weights[0, k]
    return weights.view(2, groups, _GROUP)


def row_series(rows: Tensor, weights: Tensor) -> Tensor:
    """Return y = sum_k c_k x A^k for one row x and one matrix A per pixel.

    Powers up to the fourth give groups of four terms, which Horner's rule in A^4 adds up
    (Paterson & Stockmeyer 1973, doi:10.1137/0202007): g_m = sum_j c_(4m+j) x A^j,
    y = g_0 + (g_1 + (g_2 + ...) A^4) A^4.

    Args:
        rows: Shape (P, 1 + n, n): x in the first row, A in the others.
        weights: Shape (groups, 4), c_(4m+j): a half of what `series_weights` returns.

    Returns:
        Shape (P, 1, n).
    """
    x = rows[:, :1]
    once = torch.bmm(rows, rows[:, 1:])  # x A, and A^2
    square = once[:, 1:]
    thrice = torch.bmm(torch.cat([x, once], 1), square)  # x A^2, x A^3, and A^4
    fourth = thrice[:, 2:]
    powers = torch.cat([x, once[:, :1], thrice[:, :2]], 1)
    groups = torch.bmm(weights.expand(len(rows), -1, -1), powers)
    y = groups[:, -1:]
    for m in reversed(range(len(weights) - 1)):
        y = torch.baddbmm(groups[:, m : m + 1], y, fourth)
    return y


def expm(matrix: Tensor) -> Tensor:
    """Return exp(W) of one (n, n) matrix by scaling and squaring with a fixed degree.

    exp(W) = T(W/2^5)^(2^5), where T is the Taylor polynomial of degree 16 in Horner form, exact to
    float32 rounding for norms up to 64. `torch.linalg.matrix_exp` chooses its degree from the norm,
    which synchronises a GPU. The computation is in float64, so that exp(W) exp(-W) = 1 to float32
    rounding; on devices without float64 (MPS) it is in the precision of the matrix.
    """
    w = matrix
    if matrix.device.type != "mps":
        w = matrix.double()
    w = w / 2**_SQUARINGS
    one = torch.eye(len(w), dtype=w.dtype, device=w.device)
    total = one
    for k in range(16, 0, -1):
        total = torch.addmm(one, w, total, alpha=1 / k)
    for _ in range(_SQUARINGS):
        total = total @ total
    return total.to(matrix.dtype)


def special_orthogonal_log(n: int) -> Tensor:
    """Return the real logarithm of a random rotation of R^n, a skew-symmetric (n, n) matrix.

    The rotation is uniform. Its eigenvalues are e^(i theta) in conjugate pairs; the result is the
    real part of the principal logarithm V diag(i theta) V^H.
    """
    q = nn.init.orthogonal_(torch.empty(n, n, dtype=torch.float64))
    if torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    eigenvalues, vectors = torch.linalg.eig(q)
    log = vectors @ torch.diag(1j * eigenvalues.angle()) @ torch.linalg.inv(vectors)
    skew = (log.real - log.real.T) / 2
    return skew.to(torch.get_default_dtype())
