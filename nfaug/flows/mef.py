"""The backbone "mef": matrix-exponential couplings (Xiao & Liu 2020) on a multi-scale Glow."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .layers import SQUEEZES, ActNorm, InvertibleConv1x1, Layer, Step
from .matrix_exp import MAX_BOUND, expm_action, phi_action, taylor_terms
from .networks import CouplingNet, FoldedNet

if TYPE_CHECKING:
    from .config import FlowConfig

__all__ = ["Coupling", "FrozenCoupling", "MatrixExpBackbone", "MatrixExpCoupling"]

_LOW_RANK_OFFSET = 1e-8  # added to U and V, as the released weights expect


class _Level(NamedTuple):
    """The shape of the steps of one level."""

    steps: int
    blocks: int
    hidden: int  # channels of the coupling network
    channels: int
    height: int
    width: int
    outputs: int  # channels of the coupling network's last convolution

    @property
    def kept(self) -> int:
        """Channels that a coupling passes on unchanged; its network reads them."""
        return self.channels - self.channels // 2


class MatrixExpBackbone(Backbone):
    """Steps of ActNorm, 1x1 convolution and `MatrixExpCoupling` at each level (paper, section 5.1).

    Each level squeezes 2 x 2 pixels into channels; after every level but the last, half of the
    channels go on.
    """

    settings = (
        *("steps", "blocks", "width", "low_rank_above", "rank", "bound"),
        *("squeeze", "max_scale"),
    )

    def check_settings(self, config: FlowConfig) -> None:
        least = {"steps": 1, "blocks": 0, "width": 1}
        for name, low in least.items():
            values = getattr(config, name)
            if (
                not isinstance(values, tuple)
                or not values
                or len(values) != len(config.steps)
                or any(type(n) is not int or n < low for n in values)
            ):
                raise ValueError(
                    f"{name} must be one integer of at least {low} per level; got {values!r} with "
                    f"steps {config.steps!r}"
                )
        for name, low in (("rank", 1), ("low_rank_above", 0)):
            if type(value := getattr(config, name)) is not int or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}; got {value!r}")
        _check_number("bound", config.bound, 0, MAX_BOUND)
        if config.max_scale is not None:
            _check_number("max_scale", config.max_scale, 1, 1e6)
        if config.squeeze not in SQUEEZES:
            raise ValueError(f"squeeze must be one of {[*SQUEEZES]}; got {config.squeeze!r}")

    def levels(self, config: FlowConfig) -> int:
        return len(config.steps)

    def build(self, config: FlowConfig) -> nn.ModuleList:
        return nn.ModuleList(
            nn.ModuleList(
                Step(
                    ActNorm((level.channels, level.height, level.width), config.max_scale),
                    InvertibleConv1x1(level.channels),
                    MatrixExpCoupling(
                        level.channels,
                        level.hidden,
                        level.blocks,
                        low_rank_above=config.low_rank_above,
                        rank=config.rank,
                        bound=config.bound,
                    ),
                )
                for _ in range(level.steps)
            )
            for level in _levels(config)
        )

    def parameter_count(self, config: FlowConfig) -> int:
        total = 0
        for level in _levels(config):
            net = 9 * level.hidden * level.kept + 2 * level.hidden  # the first convolution
            net += level.blocks * (19 * level.hidden**2 + 6 * level.hidden)
            net += (9 * level.hidden + 1) * level.outputs
            actnorm = 2 * level.channels * level.height * level.width
            total += level.steps * (actnorm + level.channels**2 + 4 + net)
        return total

    def tensor_count(self, config: FlowConfig) -> int:
        return sum(level.steps * (12 + 9 * level.blocks) for level in _levels(config))

    def flop(self, config: FlowConfig) -> int:
        # Convolutions only: element-wise work and the series of the exponentials add a few percent.
        total = 0
        for level in _levels(config):
            net = 9 * level.hidden * level.kept + 9 * level.hidden * level.outputs
            net += level.blocks * 19 * level.hidden**2
            pixels = level.height * level.width
            total += 2 * level.steps * pixels * (level.channels**2 + net)
        return total

    def summary(self, config: FlowConfig) -> dict[str, Any]:
        found: dict[str, Any] = {
            "levels": self.levels(config),
            "steps, blocks, width per level": f"{config.steps}, {config.blocks}, {config.width}",
        }
        if config.squeeze != "pixel":
            found["squeeze"] = config.squeeze
        if config.max_scale is not None:
            found["largest ActNorm scale"] = config.max_scale
        return found


def _levels(config: FlowConfig) -> Iterator[_Level]:
    channels, (height, width) = config.channels, config.size
    for steps, blocks, hidden in zip(config.steps, config.blocks, config.width, strict=True):
        channels, height, width = 4 * channels, height // 2, width // 2
        n = channels // 2
        outputs = n * (n + 1 if n <= config.low_rank_above else 2 * config.rank + 1)
        yield _Level(steps, blocks, hidden, channels, height, width, outputs)
        channels //= 2


def _check_number(name: str, value: Any, above: float, most: float) -> None:
    if type(value) not in (int, float) or not above < value <= most:
        raise ValueError(f"{name} must lie in ({above}, {most:g}]; got {value!r}")


class Coupling(Layer):
    """y1 = x1, y2 = exp(M) x2 + t, with M and t per pixel from x1.

    x1 is the first C - n channels and x2 the last n = C//2; log|det| = sum over pixels of
    trace(M); the inverse is x2 = exp(-M)(y2 - t). With a `rank`, M = V phi(P) U with P = U V
    (rank x rank) and phi(X) = sum_j X^j/(j+1)!:

        y2 = x2 + V phi(P) U x2 + t,    x2 = (y2 - t) - V phi(-P) U (y2 - t),

    log|det| = sum of trace(P). The series have a constant number of terms, enough for norms up to
    `bound`. Source: Xiao & Liu 2020, Generative Flows with Matrix Exponential (ICML).

    Args:
        n: Number of channels that are transformed.
        rank: Rank of M; None for full rank.
        bound: Largest norm of M (full rank) or P (low rank).
    """

    def __init__(self, n: int, rank: int | None, bound: float) -> None:
        super().__init__()
        self.n = n
        self.rank = rank
        self.cover(bound)

    def cover(self, bound: float) -> None:
        """Set the number of terms so that the series is accurate for norms up to `bound`."""
        # An error leaves the coupling as it was.
        self.terms, self.terms64 = taylor_terms(bound), taylor_terms(bound, 2.0**-53)
        self.bound = bound

    @abstractmethod
    def exponent_bound(self) -> float:
        """Upper bound of the norm of M (full rank) or P (low rank) over all inputs."""

    @abstractmethod
    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return (t, matrices) of shapes (B, n, H, W) and (B, rows, n, H, W): see `expm_action`."""

    def _transform(self, matrices: Tensor, x2: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return exp(sign*M) x2 and sign * sum over pixels of trace(M)."""
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

    def conditioning(self) -> dict[str, float]:
        return {"exponent": self.exponent_bound()}

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z1, z2 = z.split((z.shape[1] - self.n, self.n), 1)
        t, matrices = self._condition(z1)
        x2, logdet = self._transform(matrices, z2 - t, -1)
        return torch.cat([z1, x2], 1), logdet


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum((1, 2, 3))


class MatrixExpCoupling(Coupling):
    """A trainable `Coupling`: M = rescale*tanh(scale*raw + shift) + reshift entrywise.

    A network of x1 outputs t and raw; the four scalars are trained. `clip_` keeps the scalars
    inside the range that the series covers. `fit_terms` lengthens the series to cover the scalars.

    Args:
        channels: Number of input channels; the last `channels // 2` are transformed.
        width: Channels of the network.
        blocks: Residual blocks of the network.
        low_rank_above: M has rank `rank` if more channels than this are transformed.
        rank: That rank.
        bound: Largest norm of the exponent in training.
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
        """n*(|rescale| + |reshift|) for M, rank*n*(|rescale| + |reshift|)^2 for P."""
        entry = float(self.rescale.detach().abs() + self.reshift.detach().abs())
        return entry * self.n if self.rank is None else self.rank * self.n * entry**2

    def fit_terms(self) -> None:
        """Lengthen the series if the trained scalars need more terms.

        Raises:
            ValueError: If the norm is too large for a Taylor series.
        """
        # Clipping leaves an excess of rounding, which is none.
        if (bound := self.exponent_bound()) > self.bound * (1 + 1e-6):
            self.cover(bound)

    @torch.no_grad()
    def clip_(self) -> None:
        """Shrink rescale and reshift until `exponent_bound() <= bound`, without a device sync."""
        entry = self.rescale.abs() + self.reshift.abs()
        most = (
            self.bound / self.n
            if self.rank is None
            else math.sqrt(self.bound / (self.rank * self.n))
        )
        shrink = (most / entry).clamp(max=1)
        self.rescale.mul_(shrink)
        self.reshift.mul_(shrink)

    def freeze(self) -> FrozenCoupling:
        return FrozenCoupling(self)


class FrozenCoupling(Coupling):
    """A `MatrixExpCoupling` for inference.

    The network is folded and its last convolution includes scale and shift. The series has the
    number of terms that the trained scalars need. tanh(x) is computed as 2*sigmoid(2x) - 1, which
    takes a fifth of the time on CPUs; the scalars include these factors.
    """

    rescale: Tensor
    reshift: Tensor

    @torch.no_grad()
    def __init__(self, coupling: MatrixExpCoupling) -> None:
        super().__init__(coupling.n, coupling.rank, coupling.exponent_bound())
        outputs, device = coupling.net.out_layer.out_channels, coupling.scale.device
        is_matrix = torch.arange(outputs, device=device) >= self.n
        self.net = FoldedNet(
            coupling.net,
            torch.where(is_matrix, 2 * coupling.scale, 1),
            torch.where(is_matrix, 2 * coupling.shift, 0),
        )
        self.register_buffer("rescale", 2 * coupling.rescale)
        self.register_buffer("reshift", coupling.reshift - coupling.rescale)

    def exponent_bound(self) -> float:
        return self.bound

    def _condition(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = _split(self.net(x1), self.n)
        return t, torch.addcmul(self.reshift, self.rescale, torch.sigmoid(raw))


def _split(raw: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Split the network's output into t and one matrix per pixel."""
    raw = raw.contiguous()  # from channels-last: the action of the matrices vectorises over pixels
    return raw[:, :n], raw[:, n:].unflatten(1, (-1, n))
