"""The backbone "mef": matrix-exponential couplings (Xiao & Liu 2020) on a multi-scale Glow."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..io.numbers import check_number
from ..io.text import did_you_mean
from ..run.device import is_read_at_once
from .backbone import Backbone, is_size
from .layers import SQUEEZES, ActNorm, InvertibleConv1x1, Layer, Squeeze, Step
from .matrix_exp import (
    MAX_BOUND,
    expm_action,
    phi_action,
    row_series,
    series_weights,
    taylor_terms,
)
from .networks import CouplingNet

_LOW_RANK_OFFSET = 1e-8  # added to U and V, as the released weights expect
_MOST_TENSORS = 20_000


@dataclass(frozen=True)
class MefConfig(Backbone):
    """Matrix-exponential couplings on a multi-scale Glow (paper, section 5.1).

    Each level folds 2 x 2 pixels into channels and applies steps of ActNorm, 1x1 convolution and
    `MatrixExpCoupling` (Xiao & Liu 2020). After every level but the last, half of the channels go
    on.

    Args:
        padded_size: (height, width) inside the flow; None for the smallest multiple of 2^levels
            that holds the image. Images are centred on black, and the margin is cropped after
            decoding.
        steps: Steps per level.
        blocks: Residual blocks per coupling network, for each level.
        width: Channels of the coupling networks, for each level.
        low_rank_above: Couplings that transform more channels than this use low-rank matrices.
        rank: Rank of those matrices.
        bound: Largest norm of a coupling's matrix in training; sets the length of its series. Above
            about 5, float32 loses digits of exp(-M), and images no longer come back exactly.
        squeeze: How a level folds space into channels: "pixel" for the four pixels of each 2 x 2
            block, "haar" for their orthonormal Haar coefficients.
        max_scale: ActNorm scales stay in [1/max_scale, max_scale]; None for no limit. The limit
            bounds the condition number of the map where pixels hardly vary.
        attention_heads: Heads of the self-attention after the last convolution of each coupling
            network; 0 for none. Each position attends to all positions of its level, as in some of
            the paper's released flows (6 heads). The number must divide twice the number of input
            channels, so that heads are equally wide at every level.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> mef = MefConfig(steps=(2, 2), blocks=(1, 1), width=(16, 16))
        >>> mef.levels
        2
    """

    name = "mef"

    padded_size: tuple[int, int] | None = None
    steps: tuple[int, ...] = (4, 4)
    blocks: tuple[int, ...] = (1, 1)
    width: tuple[int, ...] = (32, 32)
    low_rank_above: int = 24
    rank: int = 3
    bound: float = 2.0
    squeeze: str = "pixel"
    max_scale: float | None = None
    attention_heads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padded_size is not None and not is_size(self.padded_size):
            raise ValueError(f"padded_size must be (height, width); got {self.padded_size!r}")
        for name, least in (("steps", 1), ("blocks", 0), ("width", 1)):
            values = getattr(self, name)
            if not _are_counts(values, self.levels, least):
                raise ValueError(
                    f"{name} must be one integer of at least {least} per level; got {values!r} "
                    f"with steps {self.steps!r}"
                )
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"rank must be an integer of at least 1; got {self.rank!r}")
        if type(self.attention_heads) is not int or self.attention_heads < 0:
            raise ValueError(
                f"attention_heads must be an integer of at least 0; got {self.attention_heads!r}"
            )
        check_number("bound", self.bound, 0, MAX_BOUND, open_low=True)
        if self.max_scale is not None:
            check_number("max_scale", self.max_scale, 1, 1e6, open_low=True)
        if self.squeeze not in SQUEEZES:
            raise ValueError(
                f"squeeze must be one of {', '.join(SQUEEZES)}; got {self.squeeze!r}"
                f"{did_you_mean(str(self.squeeze), SQUEEZES)}"
            )
        # Settings may come from the Hub: a large number must not keep `build` busy for hours.
        tensors = 0
        for steps, blocks in zip(self.steps, self.blocks, strict=True):
            tensors += steps * (12 + 9 * blocks + 6 * (self.attention_heads > 0))
        if tensors > _MOST_TENSORS:
            raise ValueError(f"the flow is too large: {tensors} tensors, at most {_MOST_TENSORS}")

    @property
    def levels(self) -> int:
        # `__post_init__` asks before it checks the type.
        return len(self.steps) if isinstance(self.steps, tuple) else 0

    def padded(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The size inside the flow, padding included.

        Args:
            image_size: (height, width) of the images.

        Returns:
            `padded_size`, or the smallest multiples of 2^levels that hold the images.
        """
        return self.padded_size or super().padded(image_size)

    def fold(self) -> Squeeze:
        """The layer that folds space into channels at the start of each level.

        Returns:
            A layer without weights.
        """
        return SQUEEZES[self.squeeze]()

    def build(self, shape: tuple[int, int, int]) -> nn.ModuleList:
        """New layers for inputs of one shape.

        Args:
            shape: (C, H, W), padding included.

        Returns:
            A list of steps for each level.

        Raises:
            ValueError: If `attention_heads` does not divide 2C.
        """
        channels, height, width = shape
        if self.attention_heads > 0 and 2 * channels % self.attention_heads != 0:
            raise ValueError(
                f"attention_heads must divide {2 * channels}, twice the number of input channels; "
                f"got {self.attention_heads}"
            )
        levels = nn.ModuleList()
        for steps, blocks, net_width in zip(self.steps, self.blocks, self.width, strict=True):
            channels *= 4
            height //= 2
            width //= 2
            rank = None
            if channels // 2 > self.low_rank_above:
                rank = self.rank
            level = nn.ModuleList()
            for _ in range(steps):
                actnorm = ActNorm((channels, height, width), self.max_scale)
                conv1x1 = InvertibleConv1x1(channels)
                coupling = MatrixExpCoupling(
                    channels, net_width, blocks, rank, self.bound, self.attention_heads
                )
                level.append(Step(actnorm=actnorm, conv1x1=conv1x1, couplinglayer=coupling))
            levels.append(level)
            channels //= 2
        return levels


def _are_counts(values: object, levels: int, least: int) -> bool:
    """Whether there are levels, and `values` is a tuple of one integer >= `least` for each."""
    if levels == 0 or not isinstance(values, tuple) or len(values) != levels:
        return False
    return all(type(n) is int and n >= least for n in values)


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
        """Return (t, matrices) of shapes (B, n, H, W) and (B, rows, n, H, W): see `expm_action`."""
        # The network's output is channels-last, but the action of the matrices vectorises over
        # pixels.
        out = self.net(x1).contiguous()
        t = out[:, : self.n]
        raw = out[:, self.n :].unflatten(1, (-1, self.n))
        return t, torch.addcmul(self.reshift, self.rescale, self._entries(raw))

    def _transform(self, matrices: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return exp(sign*M) x2, and M or P, of the same trace, of shape (B, m, m, H, W)."""
        terms = self.terms
        if x2.dtype == torch.float64:
            terms = self.terms64
        if self.rank is None:
            return expm_action(matrices, x2, terms, sign=sign), matrices
        u, v = (matrices + _LOW_RANK_OFFSET).split(self.rank, 1)
        p = (v.unsqueeze(2) * u.unsqueeze(1)).sum(3)  # P[i, j] = sum_a U[i, a] V[a, j]
        ux = (u * x2.unsqueeze(1)).sum(2)
        phi_ux = phi_action(p, ux, terms, sign=sign)
        change = (v * phi_ux.unsqueeze(2)).sum(1)
        return torch.add(x2, change, alpha=sign), p

    def _act(self, x1: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return exp(M) x2 + t, or exp(-M)(x2 - t) for sign -1, and the diagonals of M or P.

        The diagonals, whose sum is log|det|, are of shape (B, H, W, m).
        """
        t, matrices = self._condition(x1)
        if sign < 0:
            x2 = x2 - t
        y2, square = self._transform(matrices, x2, sign)
        if sign > 0:
            y2 = y2 + t
        return y2, square.diagonal(dim1=1, dim2=2)

    def _run(self, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return all channels, and the diagonals."""
        x1, x2 = x.split((x.shape[1] - self.n, self.n), 1)
        y2, diagonals = self._act(x1, x2, sign)
        return torch.cat([x1, y2], 1), diagonals

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, diagonals = self._run(x, 1)
        return y, diagonals.sum((1, 2, 3))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, diagonals = self._run(z, -1)
        return x, -diagonals.sum((1, 2, 3))

    def map(self, x: Tensor) -> Tensor:
        return self._run(x, 1)[0]

    def map_back(self, z: Tensor) -> Tensor:
        return self._run(z, -1)[0]


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

    def _act(self, x1: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        if is_read_at_once(x1.device):
            return super()._act(x1, x2, sign)
        batch, _, height, width = x1.shape
        out = self.net(x1).permute(0, 2, 3, 1).flatten(1, 2)
        rows = out.unflatten(2, (-1, self.n))  # (B, H*W, 1 + rows, n)
        t = rows[:, :, :1]
        matrices = torch.addcmul(self.row_reshift, self.rescale, self._entries(rows[:, :, 1:]))
        x = x2.flatten(2).mT.unsqueeze(2)
        if sign < 0:
            x = x - t
        y, square = self._act_on_rows(x, matrices, sign)
        y = y.view_as(t)
        if sign > 0:
            y = y + t
        diagonals = square.diagonal(dim1=1, dim2=2).unflatten(0, (batch, height, width))
        return y.squeeze(2).mT.unflatten(2, (height, width)), diagonals

    def _act_on_rows(self, x: Tensor, matrices: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return exp(sign*M) x of shape (P, 1, n) and M^T or P^T, with P = B*H*W pixels.

        Args:
            x: Shape (B, H*W, 1, n).
            matrices: Shape (B, H*W, rows, n): the columns of M, or the rows of U and columns of V.
            sign: 1 or -1.
        """
        both = self.weights
        if x.dtype == torch.float64:
            both = self.weights64
        weights = both[0 if sign > 0 else 1]
        if self.rank is None:
            rows = torch.cat([x, matrices], 2).flatten(0, 1)
            return row_series(rows, weights), rows[:, 1:]
        u, v = matrices.split(self.rank, 2)
        rows = torch.cat([x, v], 2).flatten(0, 1)  # x, and the columns of V
        u_rows = torch.bmm(rows, u.flatten(0, 1).mT)  # U x, and the columns of U V
        phi_ux = row_series(u_rows, weights)
        return torch.baddbmm(rows[:, :1], phi_ux, rows[:, 1:], alpha=sign), u_rows[:, 1:]
