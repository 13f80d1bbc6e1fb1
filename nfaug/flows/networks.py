"""The network of a coupling, to train and, folded, to use."""

from __future__ import annotations

import math
import threading
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .layers import standardising_affine

__all__ = ["CouplingNet", "FoldedNet"]

_CACHED_VALUES = 2**19  # of an activation that stays in the cache
_LEAST_PIECE = 16  # of fewer images torch computes a 1x1 convolution in a slow way, on one thread
_SCRATCH = 2**16  # values that three passes take at once
_LOG2_E = math.log2(math.e)
_THREAD = threading.local()


class AffineNorm(nn.Module):
    """y = scale*x + shift per channel; both are set by the first batch, then trained."""

    def __init__(self, channels: int, *, zero: bool = False) -> None:
        super().__init__()
        start = torch.zeros if zero else torch.ones
        self.zero = zero
        self.scale = nn.Parameter(start(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, self.scale, x)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        if not self.zero:
            scale, shift = standardising_affine(x, (0, 2, 3))
            self.scale.copy_(scale[:, None, None])
            self.shift.copy_(shift[:, None, None])
        return self(x)


class NormedConv(nn.Module):
    """A convolution without bias and its affine norm; zero padding keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_uniform_(self.conv.weight)
        self.norm = AffineNorm(outputs, zero=zero)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that does the same."""
        return self.conv.weight * self.norm.scale[..., None], self.norm.shift.flatten()

    def forward(self, x: Tensor) -> Tensor:
        # Scaling the weights is less work than scaling what they give, forwards and backwards.
        return F.conv2d(x, *self.folded(), padding=self.conv.padding)

    def initialize(self, x: Tensor) -> Tensor:
        return self.norm.initialize(self.conv(x))


class ResidualBlock(nn.Module):
    """ELU(norm(conv3x3)), ELU(norm(conv1x1)), norm(conv3x3) starting at 0, add the input, ELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(width, width, 3)
        self.conv2 = NormedConv(width, width, 1)
        self.conv3 = NormedConv(width, width, 3, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu_(self.conv1(x))
        h = F.elu_(self.conv2(h))
        return F.elu_(self.conv3(h).add_(x))

    def initialize(self, x: Tensor) -> Tensor:
        h = F.elu(self.conv1.initialize(x))
        h = F.elu(self.conv2.initialize(h))
        return F.elu(self.conv3.initialize(h) + x)


class CouplingNet(nn.Module):
    """A convolution, residual blocks, and a last convolution that starts at 0.

    Sub-modules carry the names of the released weights: `layers.0` is the first convolution,
    `layers.i` the i-th block. The work is done in channels-last order. With `recompute` what is
    computed inside a block is not kept for the backward pass, but computed again.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.recompute = False
        first = NormedConv(inputs, width, 3)
        self.layers = nn.ModuleList([first, *(ResidualBlock(width) for _ in range(blocks))])
        self.out_layer = nn.Conv2d(width, outputs, 3, padding=1)
        for parameter in self.out_layer.parameters():
            nn.init.zeros_(parameter)

    @property
    def first(self) -> NormedConv:
        """The first convolution."""
        return cast("NormedConv", self.layers[0])

    @property
    def blocks(self) -> list[ResidualBlock]:
        """The residual blocks."""
        return [cast("ResidualBlock", block) for block in self.layers[1:]]

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu_(self.first(x.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return self.out_layer(x)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        x = F.elu(self.first.initialize(x))
        for block in self.blocks:
            x = block.initialize(x)
        return self.out_layer(x)


class FoldedConv(nn.Module):
    """A convolution for inference: buffers instead of parameters, channels-last weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        weight = weight.detach().clone(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class FoldedBlock(nn.Module):
    """A `ResidualBlock` for inference, on activations that are log2(e) times as large."""

    conv1: FoldedConv
    conv2: FoldedConv
    conv3: FoldedConv

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        for name in ("conv1", "conv2", "conv3"):
            weight, bias = getattr(block, name).folded()
            self.add_module(name, FoldedConv(weight, bias * _LOG2_E))

    def forward(self, x: Tensor) -> Tensor:
        h = _elu(self.conv1(x))
        h = _elu(self.conv2(h))
        return _elu(self.conv3(h).add_(x))


class FoldedNet(nn.Module):
    """A `CouplingNet` for inference: every affine norm is inside its convolution.

    `out_scale` and `out_shift` (one value an output channel) are folded into the last one:
    y = out_scale*net(x) + out_shift. In between, all activations are log2(e) times as large, which
    makes the exponential of ELU a power of two.

    On a CPU a large batch is taken in pieces whose activations stay in the cache: the passes
    between convolutions are bound by memory.
    """

    @torch.no_grad()
    def __init__(self, net: CouplingNet, out_scale: Tensor, out_shift: Tensor) -> None:
        super().__init__()
        weight, bias = net.first.folded()
        self.first = FoldedConv(weight * _LOG2_E, bias * _LOG2_E)
        self.blocks = nn.ModuleList(FoldedBlock(block) for block in net.blocks)
        weight, bias = net.out_layer.parameters()
        self.last = FoldedConv(
            weight * (out_scale / _LOG2_E)[:, None, None, None], bias * out_scale + out_shift
        )

    def _whole(self, x: Tensor) -> Tensor:
        x = x.to(self.first.weight.dtype).contiguous(memory_format=torch.channels_last)
        x = _elu(self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.last(x)

    def piece(self, x: Tensor) -> int:
        """How many images of a batch are taken at once."""
        if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
            return len(x)
        cached = _CACHED_VALUES // (len(self.first.bias) * x.shape[2] * x.shape[3])
        return max(_LEAST_PIECE, cached)

    def forward(self, x: Tensor) -> Tensor:
        piece = self.piece(x)
        if piece >= len(x):
            return self._whole(x).to(x.dtype).contiguous()
        out = x.new_empty(len(x), len(self.last.bias), *x.shape[2:])
        for part, slot in zip(x.split(piece), out.split(piece), strict=True):
            slot.copy_(self._whole(part))
        return out


def _elu(x: Tensor) -> Tensor:
    """a*ELU(x/a) in place, a = log2(e) (a convolution's backward does not need its result).

    It is max(x, 0) or a*2^x - a, whichever is less: three passes over what is in the cache.
    torch's own kernel takes expm1, which costs a CPU up to a fifth of a convolution; the rounding
    of 2^x (1e-7 absolute) is the convolutions' own.
    """
    if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling():
        return torch.ops.aten.elu_(x, _LOG2_E, 1.0, 1 / _LOG2_E)
    zero, minus_a = x.new_zeros(()), x.new_full((), -_LOG2_E)
    for part in x.permute(0, 2, 3, 1).view(-1).split(_SCRATCH):
        scratch = torch.exp2(part, out=_scratch(part))
        torch.add(minus_a, scratch, alpha=_LOG2_E, out=scratch)
        torch.clamp(zero, min=part, max=scratch, out=part)
    return x


def _scratch(like: Tensor) -> Tensor:
    """Room for `_elu`, one a thread: fresh memory would cost a page fault every 4 KiB."""
    room = getattr(_THREAD, "room", None)
    if room is None or room.dtype != like.dtype:
        room = _THREAD.room = torch.empty(_SCRATCH, dtype=like.dtype)
    return room[: len(like)]
