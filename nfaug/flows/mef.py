"""The matrix-exponential coupling (Xiao & Liu 2020)."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from .layers import Layer, Precision
from .matrix_exp import expm_action, phi_action, taylor_terms
from .networks import CouplingNet, FoldedNet

__all__ = ["Coupling", "FrozenCoupling", "MatrixExpCoupling"]

_LOW_RANK_OFFSET = 1e-8  # added to U and V, as the released weights expect


class Coupling(Layer):
    """y1 = x1, y2 = exp(M) x2 + t, with M and t per pixel from x1.

    x1 is the first C - n channels and x2 the last n = C//2; log|det| = sum over pixels of
    trace(M); the inverse is x2 = exp(-M)(y2 - t). With a `rank`, M = V phi(P) U with P = U V
    (rank x rank) and phi(X) = sum_j X^j/(j+1)!:

        y2 = x2 + V phi(P) U x2 + t,    x2 = (y2 - t) - V phi(-P) U (y2 - t),

    log|det| = sum of trace(P). Source: Xiao & Liu 2020 (ICML), generative flows with matrix
    exponential. The series have a constant number of terms, enough for norms up to `bound`.
    """

    def __init__(self, n: int, rank: int | None, bound: float) -> None:
        super().__init__()
        self.n = n
        self.rank = rank
        self.cover(bound)

    def cover(self, bound: float) -> None:
        """Take as many terms of the series as serve norms up to `bound`."""
        self.bound = bound
        self.terms = taylor_terms(bound)
        self.terms64 = taylor_terms(bound, 2.0**-53)

    @abstractmethod
    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """(t, matrices): shapes (B, n, H, W) and (B, rows, n, H, W), see `expm_action`."""

    def _transform(self, matrices: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """(exp(sign M) x2, sign * sum over pixels of trace(M))."""
        terms = self.terms64 if x2.dtype == torch.float64 else self.terms
        if self.rank is None:
            return expm_action(matrices, x2, terms, sign=sign), sign * _trace(matrices)
        u, v = (matrices + _LOW_RANK_OFFSET).split(self.rank, 1)
        p = (v.unsqueeze(2) * u.unsqueeze(1)).sum(3)  # P[i, j] = sum_a U[i, a] V[a, j]
        inner = phi_action(p, (u * x2.unsqueeze(1)).sum(2), terms, sign=sign)
        return torch.add(x2, (v * inner.unsqueeze(2)).sum(1), alpha=sign), sign * _trace(p)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split((x.shape[1] - self.n, self.n), 1)
        t, matrices = self._condition(x1)
        y2, logdet = self._transform(matrices, x2, 1)
        return torch.cat([x1, y2 + t], 1), logdet

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z1, z2 = z.split((z.shape[1] - self.n, self.n), 1)
        t, matrices = self._condition(z1)
        x2, logdet = self._transform(matrices, z2 - t, -1)
        return torch.cat([z1, x2], 1), logdet


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum((1, 2, 3))


class MatrixExpCoupling(Coupling):
    """A `Coupling` to train: M = rescale*tanh(scale*raw + shift) + reshift entrywise.

    Four scalars are learnt, and a network on x1 gives t and raw. Above `low_rank_above` channels
    the matrix has rank `rank`. `clip_` keeps the scalars inside what the series covers, and
    `fit_terms` lengthens the series to cover the scalars.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        *,
        low_rank_above: int = 24,
        rank: int = 3,
        bound: float = 2.0,
    ) -> None:
        n = channels // 2
        super().__init__(n, rank if n > low_rank_above else None, bound)
        rows = n if self.rank is None else 2 * self.rank
        self.scale = nn.Parameter(torch.full((1,), 1 / 8))
        self.shift = nn.Parameter(torch.zeros(1))
        self.rescale = nn.Parameter(torch.full((1,), 1 / n))
        self.reshift = nn.Parameter(torch.zeros(1))
        self.net = CouplingNet(channels - n, n * (rows + 1), width, blocks)

    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = _split(self.net(x1), self.n)
        entries = torch.tanh(torch.addcmul(self.shift, self.scale, raw))
        return t, torch.addcmul(self.reshift, self.rescale, entries)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        self.net.initialize(x[:, : x.shape[1] - self.n])
        return self(x)[0]

    def exponent_bound(self) -> float:
        """The largest norm the exponent can have: n(|rescale| + |reshift|), of P rank*n(...)^2."""
        entry = float(self.rescale.detach().abs() + self.reshift.detach().abs())
        return entry * self.n if self.rank is None else self.rank * self.n * entry**2

    def fit_terms(self) -> None:
        """Read the learnt scalars once and lengthen the series if they ask for it.

        Raises:
            ValueError: the norm bound is past what a Taylor series serves.
        """
        self.cover(max(self.bound, self.exponent_bound()))

    @torch.no_grad()
    def clip_(self) -> None:
        """Scale rescale and reshift back inside the bound that `terms` covers, without a sync."""
        entry = self.rescale.abs() + self.reshift.abs()
        most = (
            self.bound / self.n
            if self.rank is None
            else math.sqrt(self.bound / (self.rank * self.n))
        )
        shrink = (most / entry).clamp(max=1)
        self.rescale.mul_(shrink)
        self.reshift.mul_(shrink)

    def freeze(self, precision: Precision = "full") -> FrozenCoupling:
        return FrozenCoupling(self, precision)


class FrozenCoupling(Coupling):
    """A `MatrixExpCoupling` for inference.

    The network is folded, scale and shift are inside its last convolution, and the series is as
    long as the learnt scalars need. tanh(x) is 2*sigmoid(2x) - 1, which costs a CPU a fifth; the
    factors are inside the scalars.
    """

    rescale: Tensor
    reshift: Tensor

    @torch.no_grad()
    def __init__(self, coupling: MatrixExpCoupling, precision: Precision = "full") -> None:
        super().__init__(coupling.n, coupling.rank, coupling.exponent_bound())
        outputs, device = coupling.net.out_layer.out_channels, coupling.scale.device
        is_matrix = torch.arange(outputs, device=device) >= self.n
        self.net = FoldedNet(
            coupling.net,
            torch.where(is_matrix, 2 * coupling.scale, 1),
            torch.where(is_matrix, 2 * coupling.shift, 0),
        )
        if precision == "bf16":
            self.net.bfloat16()
        self.register_buffer("rescale", 2 * coupling.rescale)
        self.register_buffer("reshift", coupling.reshift - coupling.rescale)

    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = _split(self.net(x1), self.n)
        return t, torch.addcmul(self.reshift, self.rescale, torch.sigmoid(raw))


def _split(raw: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The network's output as t and one matrix a pixel, both with pixels innermost."""
    raw = raw.contiguous()  # channels-last so far: the action runs over pixels side by side
    return raw[:, :n], raw[:, n:].unflatten(1, (-1, n))
