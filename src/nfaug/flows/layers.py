"""Invertible layers with one interface: `forward(x) -> (z, logdet)`, `inverse(z) -> (x, logdet)`.

`logdet` has shape (B,). It belongs to the direction that is called, so those of x -> z and z -> x
add up to zero. `map` and `map_back` are the same without it. The other methods of `Layer` have
defaults; a layer overrides those that it needs.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .matrix_exp import expm, special_orthogonal_log

_SOFTPLUS_ONE = math.log(math.e - 1)  # softplus(_SOFTPLUS_ONE) = 1
_HADAMARD = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
_MIN_STD = 1e-3  # instead of 0, the standard deviation of a constant pixel


class Layer(nn.Module, ABC):
    """An invertible map of images with the log-determinant of its Jacobian."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, log|det dz/dx|); x and z are (B, C, H, W), the second is (B,)."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x, log|det dx/dz|)."""

    def map(self, x: Tensor) -> Tensor:
        """Return z alone, without the log-determinant and the time that it takes."""
        return self(x)[0]

    def map_back(self, z: Tensor) -> Tensor:
        """Return x alone."""
        return self.inverse(z)[0]

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Set data-dependent parameters from a batch, if any, and return the output."""
        return self(x)[0]

    def freeze(self) -> Layer:
        """Return a copy for inference, with all that does not depend on the input precomputed."""
        return copy.deepcopy(self)

    def clip_(self) -> None:
        """Move parameters back inside their bounds, after an optimizer step."""

    def use_bf16(self, on: bool) -> None:
        """Set whether a network inside computes in bfloat16 while gradients are recorded."""


class Squeeze(Layer):
    """Space to depth by 2: (B, C, H, W) -> (B, 4C, H/2, W/2).

    New channel (2*fy + fx)*C + c holds pixel (2h + fy, 2w + fx) of channel c (Dinh et al. 2017,
    arXiv:1605.08803, with the order of the released weights). log|det| = 0.
    """

    def map(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, 4 * c, h // 2, w // 2)

    def map_back(self, z: Tensor) -> Tensor:
        b, c, h, w = z.shape
        z = z.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
        return z.reshape(b, c // 4, 2 * h, 2 * w)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x), x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.map_back(z), z.new_zeros(len(z))


class HaarSqueeze(Squeeze):
    """`Squeeze` followed by the orthonormal Haar transform of each 2 x 2 block.

    For the four pixels p = (p00, p01, p10, p11) of a block, the four groups of C channels hold
    H p / 2: twice the mean, then the horizontal, vertical and diagonal differences. H is the
    Hadamard matrix; H/2 is symmetric and orthonormal, so it is its own inverse and log|det| = 0.
    """

    halved: Tensor

    def __init__(self) -> None:
        super().__init__()
        # The device is named, since flows are also built on "meta".
        halved = torch.tensor(_HADAMARD, dtype=torch.float32, device="cpu") / 2
        self.register_buffer("halved", halved, persistent=False)

    def _mix(self, x: Tensor) -> Tensor:
        groups = x.flatten(1).unflatten(1, (4, -1))
        return torch.bmm(self.halved.to(x).expand(len(x), -1, -1), groups).view(x.shape)

    def map(self, x: Tensor) -> Tensor:
        return self._mix(super().map(x))

    def map_back(self, z: Tensor) -> Tensor:
        return super().map_back(self._mix(z))


SQUEEZES: dict[str, type[Squeeze]] = {"pixel": Squeeze, "haar": HaarSqueeze}


def inverse_softplus(y: Tensor) -> Tensor:
    """Return x with log(1 + e^x) = y > 0, as y + log(1 - e^-y): log(e^y - 1) overflows at 89."""
    return y + torch.log(-torch.expm1(-y))


def standardising_affine(
    x: Tensor, dims: tuple[int, ...], max_scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return (scale, shift) that give `x` zero mean and unit variance over `dims`.

    With `max_scale` the scale is limited to [1/max_scale, max_scale].
    """
    std = x.std(dims, unbiased=False).clamp_min(_MIN_STD)
    if max_scale is not None:
        std = std.clamp(1 / max_scale, max_scale)
    return 1 / std, -x.mean(dims) / std


class ActNorm(Layer):
    """y = softplus(s)*x + b with one scale and one shift per position.

    log|det| = sum log softplus(s). The first batch sets zero mean and unit variance at each
    position (Kingma & Dhariwal 2018, arXiv:1807.03039, use one value per channel).

    Args:
        shape: (C, H, W) of the input and of the parameters.
        max_scale: `initialize` and `clip_` keep scales in [1/max_scale, max_scale]; None for no
            limit.
    """

    max_scale: float | None
    scale: nn.Parameter
    shift: nn.Parameter

    def __init__(self, shape: tuple[int, int, int], max_scale: float | None = None) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.scale = nn.Parameter(torch.full(shape, _SOFTPLUS_ONE))
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = F.softplus(self.scale)
        logdet = scale.log().sum()
        return torch.addcmul(self.shift, scale, x), logdet.expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale = F.softplus(self.scale)
        logdet = -scale.log().sum()
        return (z - self.shift) / scale, logdet.expand(len(z))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        scale, shift = standardising_affine(x, (0,), self.max_scale)
        self.scale.copy_(inverse_softplus(scale))
        self.shift.copy_(shift)
        return self(x)[0]

    @torch.no_grad()
    def clip_(self) -> None:
        if self.max_scale is None:
            return
        limits = torch.tensor(
            [1 / self.max_scale, self.max_scale], dtype=self.scale.dtype, device="cpu"
        )
        low, high = inverse_softplus(limits).tolist()
        self.scale.clamp_(low, high)


class InvertibleConv1x1(Layer):
    """y = exp(W) x at every pixel; the inverse is exp(-W) y and log|det| = H*W*trace(W).

    W is initialised to the logarithm of a random rotation (Xiao & Liu 2020).
    """

    weight: nn.Parameter

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels))
        if not self.weight.is_meta:  # weights that are about to be loaded need no random numbers
            with torch.no_grad():
                self.weight.copy_(special_orthogonal_log(channels))

    def _logdet(self, x: Tensor) -> Tensor:
        return (x.shape[2] * x.shape[3] * torch.trace(self.weight)).expand(len(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.conv2d(x, expm(self.weight)[:, :, None, None]), self._logdet(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return F.conv2d(z, expm(-self.weight)[:, :, None, None]), -self._logdet(z)


class FrozenAffine(Layer):
    """ActNorm and 1x1 convolution: y = exp(W)(a*x + b), x = (exp(-W) y)/a - b/a, a = softplus(s).

    Each direction is one fused multiply-add and one convolution. The shift is not moved past the
    convolution as exp(W) b: that saves no time and loses digits, because where pixels are constant
    a can be several hundred, and a*x and b must cancel before channels are summed.
    """

    scale: Tensor
    shift: Tensor
    inverse_scale: Tensor
    inverse_shift: Tensor
    matrix: Tensor
    inverse_matrix: Tensor
    logdet: Tensor

    @torch.no_grad()
    def __init__(self, actnorm: ActNorm, conv1x1: InvertibleConv1x1) -> None:
        super().__init__()
        # In float64, so that the matrices are inverses to float32 rounding. On the CPU, because
        # Apple GPUs have no float64.
        weight = conv1x1.weight.detach().cpu().double()
        scale = F.softplus(actnorm.scale.detach().cpu().double())
        shift = actnorm.shift.detach().cpu().double()
        matrix = torch.linalg.matrix_exp(weight)
        inverse_matrix = torch.linalg.matrix_exp(-weight)
        pixels = scale.shape[1] * scale.shape[2]
        buffers = {
            "scale": scale,
            "shift": shift,
            "inverse_scale": 1 / scale,
            "inverse_shift": -shift / scale,
            "matrix": matrix[:, :, None, None],
            "inverse_matrix": inverse_matrix[:, :, None, None],
            "logdet": scale.log().sum() + pixels * torch.trace(weight),
        }
        for name, value in buffers.items():
            # A copy, or `shift` could share memory with the ActNorm.
            self.register_buffer(name, value.to(conv1x1.weight, copy=True).contiguous())

    def map(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.addcmul(self.shift, x, self.scale), self.matrix)

    def map_back(self, z: Tensor) -> Tensor:
        x = F.conv2d(z, self.inverse_matrix)
        return torch.addcmul(self.inverse_shift, x, self.inverse_scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x), self.logdet.expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.map_back(z), -self.logdet.expand(len(z))


class Chain(Layer):
    """Layers by name, one after the other."""

    def __init__(self, **layers: Layer) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.children():
            x, logdet = layer(x)
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for layer in reversed(list(self.children())):
            z, logdet = cast("Layer", layer).inverse(z)
            total = total + logdet
        return z, total

    def map(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = cast("Layer", layer).map(x)
        return x

    def map_back(self, z: Tensor) -> Tensor:
        for layer in reversed(list(self.children())):
            z = cast("Layer", layer).map_back(z)
        return z

    def initialize(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = cast("Layer", layer).initialize(x)
        return x


class Step(Chain):
    """ActNorm, invertible 1x1 convolution and coupling, with the released weights' names."""

    actnorm: ActNorm
    conv1x1: InvertibleConv1x1
    couplinglayer: Layer

    def freeze(self) -> Layer:
        affine = FrozenAffine(self.actnorm, self.conv1x1)
        return Chain(affine=affine, coupling=self.couplinglayer.freeze())
