"""The couplings of the backbone "mef": matrix exponentials (Xiao & Liu 2020)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from ..run.device import is_read_at_once
from .layers import Layer
from .matrix_exp import expm_action, phi_action, row_series, series_weights
from .networks import CouplingNet
from .taylor import taylor_terms

_LOW_RANK_OFFSET = 1e-8  # added to U and V, as the released weights expect


class Coupling(Layer):
    """y1 = x1, y2 = exp(M) x2 + t, with M and t per pixel from x1.

    x1 is the first C - n channels and x2 the last n = C//2; log|det| = sum over pixels of
    trace(M); the inverse is x2 = exp(-M)(y2 - t). With a `rank`, M = V U, P = U V (rank x rank)
    and phi(X) = sum_j X^j/(j+1)!:

        y2 = x2 + V phi(P) U x2 + t,    x2 = (y2 - t) - V phi(-P) U (y2 - t),

    log|det| = sum of trace(P). The series have a constant number of terms, enough for norms up to
    `bound`. Source: Xiao & Liu 2020, Generative Flows with Matrix Exponential (ICML).

    Args:
        n: Number of channels that are transformed.
        rank: Rank of M; None for full rank.
        bound: Largest norm of M (full rank) or P (low rank).
    """

    n: int
    rank: int | None
    bound: float
    terms: int
    terms64: int
    net: CouplingNet
    rescale: Tensor
    reshift: Tensor

    def __init__(self, n: int, rank: int | None, bound: float) -> None:
        super().__init__()
        self.n = n
        self.rank = rank
        self.cover(bound)

    def cover(self, bound: float) -> None:
        """Set the number of terms so that the series is accurate for norms up to `bound`."""
        # Both are computed before one is set, so that an error leaves the coupling as it was.
        terms = taylor_terms(bound)
        terms64 = taylor_terms(bound, 2.0**-53)
        self.terms = terms
        self.terms64 = terms64
        self.bound = bound

    @abstractmethod
    def _entries(self, raw: Tensor) -> Tensor:
        """Return bounded entries of the matrices before rescale and reshift."""

    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return t of shape (B, n, H, W), and the matrices as `_exp` takes them."""
        # The network's output is channels-last, but the action of the matrices vectorises over
        # pixels.
        out = self.net(x1).contiguous()
        t = out[:, : self.n]
        raw = out[:, self.n :].unflatten(1, (-1, self.n))
        return t, torch.addcmul(self.reshift, self.rescale, self._entries(raw))

    def _exp(self, matrices: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return exp(sign*M) x2, and the diagonals of M or P, whose sum is log|det|.

        Args:
            matrices: Shape (B, rows, n, H, W), see `expm_action`: M, or U and V.
            x2: Shape (B, n, H, W).
            sign: 1 or -1.

        Returns:
            Shapes (B, n, H, W) and (B, H, W, m).
        """
        terms = self.terms
        if x2.dtype == torch.float64:
            terms = self.terms64
        if self.rank is None:
            y2 = expm_action(matrices, x2, terms, sign=sign)
            return y2, matrices.diagonal(dim1=1, dim2=2)
        u, v = (matrices + _LOW_RANK_OFFSET).split(self.rank, 1)
        p = (v.unsqueeze(2) * u.unsqueeze(1)).sum(3)  # P[i, j] = sum_a U[i, a] V[a, j]
        ux = (u * x2.unsqueeze(1)).sum(2)
        phi_ux = phi_action(p, ux, terms, sign=sign)
        change = (v * phi_ux.unsqueeze(2)).sum(1)
        return torch.add(x2, change, alpha=sign), p.diagonal(dim1=1, dim2=2)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all channels of y, and the diagonals."""
        x1, x2 = x.split((x.shape[1] - self.n, self.n), 1)
        t, matrices = self._condition(x1)
        y2, diagonals = self._exp(matrices, x2, 1)
        return torch.cat([x1, y2 + t], 1), diagonals

    def _inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return all channels of x, and the diagonals."""
        y1, y2 = y.split((y.shape[1] - self.n, self.n), 1)
        t, matrices = self._condition(y1)
        x2, diagonals = self._exp(matrices, y2 - t, -1)
        return torch.cat([y1, x2], 1), diagonals

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, diagonals = self._forward(x)
        return y, diagonals.sum((1, 2, 3))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, diagonals = self._inverse(z)
        return x, -diagonals.sum((1, 2, 3))

    def map(self, x: Tensor) -> Tensor:
        return self._forward(x)[0]

    def map_back(self, z: Tensor) -> Tensor:
        return self._inverse(z)[0]


class MatrixExpCoupling(Coupling):
    """A trainable `Coupling`: M = rescale*tanh(scale*raw + shift) + reshift entrywise.

    A network of x1 outputs t and raw; the four scalars are trained. `clip_` keeps the scalars
    inside the range that the series covers; loaded scalars beyond it lengthen the series.

    Args:
        channels: Number of input channels; the last `channels // 2` are transformed.
        width: Channels of the network.
        blocks: Residual blocks of the network.
        rank: Rank of M; None for full rank.
        bound: Largest norm of the exponent in training.
        attention_heads: Heads of the network's self-attention; 0 for none.
    """

    net: CouplingNet
    scale: nn.Parameter
    shift: nn.Parameter
    rescale: nn.Parameter
    reshift: nn.Parameter

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        rank: int | None = None,
        bound: float = 2.0,
        attention_heads: int = 0,
    ) -> None:
        n = channels // 2
        super().__init__(n, rank, bound)
        rows = n
        if rank is not None:
            rows = 2 * rank  # those of U and V
        self.scale = nn.Parameter(torch.full((1,), 1 / 8))
        self.shift = nn.Parameter(torch.zeros(1))
        self.rescale = nn.Parameter(torch.full((1,), 1 / n))
        self.reshift = nn.Parameter(torch.zeros(1))
        outputs = n * (rows + 1)
        self.net = CouplingNet.new(channels - n, outputs, width, blocks, attention_heads)
        self.register_load_state_dict_post_hook(MatrixExpCoupling.fit_terms)

    def use_bf16(self, on: bool) -> None:
        self.net.bf16 = on

    def _entries(self, raw: Tensor) -> Tensor:
        return torch.tanh(torch.addcmul(self.shift, self.scale, raw))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        self.net.initialize(x[:, : x.shape[1] - self.n])
        return self(x)[0]

    def exponent_bound(self) -> float:
        """Upper bound of the norm of M or P over all inputs.

        It is n*(|rescale| + |reshift|) for M, and rank*n*(|rescale| + |reshift|)^2 for P.
        """
        entry = float(self.rescale.detach().abs() + self.reshift.detach().abs())
        if self.rank is None:
            return entry * self.n
        return self.rank * self.n * entry**2

    def fit_terms(self, *_: object) -> None:
        """Lengthen the series if the scalars need more terms; `load_state_dict` does so too.

        Raises:
            ValueError: If the norm is too large for a Taylor series.
        """
        if self.rescale.is_meta or self.reshift.is_meta:
            return  # weights are missing, and `load_state_dict` raises an error for them
        # Scalars that `clip_` moved to the bound may exceed it by rounding.
        bound = self.exponent_bound()
        if bound > self.bound * (1 + 1e-6):
            self.cover(bound)

    @torch.no_grad()
    def clip_(self) -> None:
        """Shrink rescale and reshift until `exponent_bound() <= bound`, without a device sync."""
        entry = self.rescale.abs() + self.reshift.abs()
        if self.rank is None:
            largest_entry = self.bound / self.n
        else:
            largest_entry = math.sqrt(self.bound / (self.rank * self.n))
        factor = (largest_entry / entry).clamp(max=1)
        self.rescale.mul_(factor)
        self.reshift.mul_(factor)

    def freeze(self) -> FrozenCoupling:
        return FrozenCoupling(self)


class FrozenCoupling(Coupling):
    """A `MatrixExpCoupling` for inference.

    The network is folded and its last convolution includes scale and shift. The series has the
    number of terms that the trained scalars need. tanh(x) is computed as 2*sigmoid(2x) - 1, which
    takes a fifth of the time on CPUs; the scalars include these factors.

    An accelerator computes with a row for each pixel (see `row_series`).
    """

    net: CouplingNet
    row_reshift: Tensor
    weights: Tensor
    weights64: Tensor

    @torch.no_grad()
    def __init__(self, coupling: MatrixExpCoupling) -> None:
        super().__init__(coupling.n, coupling.rank, coupling.exponent_bound())
        bias = cast("Tensor", coupling.net.out_layer.bias)
        is_matrix = torch.arange(len(bias), device=bias.device) >= self.n
        out_scale = torch.where(is_matrix, 2 * coupling.scale, 1)
        out_shift = torch.where(is_matrix, 2 * coupling.shift, 0)
        self.net = coupling.net.folded(out_scale, out_shift)
        self.register_buffer("rescale", 2 * coupling.rescale)
        self.register_buffer("reshift", coupling.reshift - coupling.rescale)
        low_rank = self.rank is not None
        self.register_buffer("row_reshift", self.reshift + low_rank * _LOW_RANK_OFFSET)
        for name, terms in (("weights", self.terms), ("weights64", self.terms64)):
            weights = series_weights(terms, divided=low_rank)
            self.register_buffer(name, weights.to(coupling.rescale))

    def _entries(self, raw: Tensor) -> Tensor:
        return torch.sigmoid(raw)

    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return t, and on an accelerator the matrices as rows, of shape (B, H*W, rows, n).

        These are the columns of M, or the rows of U and the columns of V.
        """
        if is_read_at_once(x1.device):
            return super()._condition(x1)
        out = self.net(x1).permute(0, 2, 3, 1)
        rows = out[..., self.n :].flatten(1, 2).unflatten(2, (-1, self.n))
        matrices = torch.addcmul(self.row_reshift, self.rescale, self._entries(rows))
        return out[..., : self.n].permute(0, 3, 1, 2), matrices

    def _exp(self, matrices: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        if is_read_at_once(x2.device):
            return super()._exp(matrices, x2, sign)
        both = self.weights
        if x2.dtype == torch.float64:
            both = self.weights64
        weights = both[0 if sign > 0 else 1]
        x = x2.flatten(2).mT.unsqueeze(2)  # (B, H*W, 1, n)
        if self.rank is None:
            rows = torch.cat([x, matrices], 2).flatten(0, 1)
            square = rows[:, 1:]  # M^T
            y = row_series(rows, weights)
        else:
            u, v = matrices.split(self.rank, 2)
            rows = torch.cat([x, v], 2).flatten(0, 1)  # x, and the columns of V
            u_rows = torch.bmm(rows, u.flatten(0, 1).mT)  # U x, and the columns of U V
            square = u_rows[:, 1:]  # P^T
            y = torch.baddbmm(rows[:, :1], row_series(u_rows, weights), rows[:, 1:], alpha=sign)
        batch, _, height, width = x2.shape
        diagonals = square.diagonal(dim1=1, dim2=2).unflatten(0, (batch, height, width))
        return y.view(batch, height * width, self.n).mT.unflatten(2, (height, width)), diagonals
