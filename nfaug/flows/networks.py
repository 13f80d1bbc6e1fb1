"""The network of a coupling, in its trainable form and folded for inference."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import standardising_affine

__all__ = ["CouplingNet", "DisableTF32"]

_Map = Callable[[Tensor], Tensor]

_SCRATCH = 2**16  # values that `_elu` processes at a time
_LOG2_E = math.log2(math.e)
_THREAD = threading.local()


class DisableTF32:
    """Context manager: cuDNN convolutions compute in full float32.

    It has no effect in a compiled graph, which cannot set a global flag: callers of
    `torch.compile` must turn TF32 off themselves.
    """

    def __init__(self, device: torch.device) -> None:
        self.active = device.type == "cuda" and not torch.compiler.is_compiling()

    def __enter__(self) -> None:
        if self.active:
            cudnn: Any = torch.backends.cudnn
            new = hasattr(cudnn, "conv")  # torch >= 2.9 has a setting for each operator
            self.owner = cudnn.conv if new else cudnn
            self.name = "fp32_precision" if new else "allow_tf32"
            self.before = getattr(self.owner, self.name)
            setattr(self.owner, self.name, "ieee" if new else False)

    def __exit__(self, *exception: object) -> None:
        if self.active:
            setattr(self.owner, self.name, self.before)


class AffineNorm(nn.Module):
    """y = scale*x + shift per channel, set by the first batch and then trained."""

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
    """A convolution without bias and an `AffineNorm`; zero padding keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_uniform_(self.conv.weight)
        self.norm = AffineNorm(outputs, zero=zero)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of one convolution that computes the same."""
        return self.conv.weight * self.norm.scale[..., None], self.norm.shift.flatten()

    def forward(self, x: Tensor) -> Tensor:
        # Scaling weights takes less work than scaling activations, in both directions.
        return F.conv2d(x, *self.folded(), padding=self.conv.padding)

    def initialize(self, x: Tensor) -> Tensor:
        return self.norm.initialize(self.conv(x))


class ResidualBlock(nn.Module):
    """y = ELU(x + n3(ELU(n2(ELU(n1(x)))))), with normed convolutions n1, n2, n3."""

    def __init__(
        self, conv1: nn.Module, conv2: nn.Module, conv3: nn.Module, elu: _Map = F.elu_
    ) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv1, conv2, conv3
        self.elu = elu

    def forward(self, x: Tensor) -> Tensor:
        h = self.elu(self.conv1(x))
        h = self.elu(self.conv2(h))
        return self.elu(self.conv3(h).add_(x))

    def initialize(self, x: Tensor) -> Tensor:
        n1, n2, n3 = (cast("NormedConv", conv) for conv in self.children())
        h = F.elu(n2.initialize(F.elu(n1.initialize(x))))
        return F.elu(n3.initialize(h) + x)


class CouplingNet(nn.Module):
    """A convolution, residual blocks, and a last convolution.

    Sub-modules have the names of the released weights: `layers.0` is the first convolution,
    `layers.i` the i-th block. Activations are in channels-last order.

    Args:
        layers: The first convolution and the blocks.
        out_layer: The last convolution.
        elu: The activation.

    Attributes:
        bf16: Whether passes that record gradients run in bfloat16; others never do.
    """

    def __init__(
        self, layers: Iterable[nn.Module], out_layer: nn.Module, elu: _Map = F.elu_
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.out_layer = out_layer
        self.elu = elu
        self.bf16 = False

    @classmethod
    def new(cls, inputs: int, outputs: int, width: int, blocks: int) -> CouplingNet:
        """A network to train; the last convolution of each block and of the whole starts at 0."""
        layers: list[nn.Module] = [NormedConv(inputs, width, 3)]
        for _ in range(blocks):
            convs = NormedConv(width, width, 3), NormedConv(width, width, 1)
            layers.append(ResidualBlock(*convs, NormedConv(width, width, 3, zero=True)))
        net = cls(layers, nn.Conv2d(width, outputs, 3, padding=1))
        for parameter in net.out_layer.parameters():
            nn.init.zeros_(parameter)
        return net

    def forward(self, x: Tensor) -> Tensor:
        if self.bf16 and torch.is_grad_enabled():
            with torch.autocast(x.device.type, torch.bfloat16):
                return self._run(x).to(x.dtype)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        first, *blocks = self.layers
        x = self.elu(first(x.contiguous(memory_format=torch.channels_last)))
        for block in blocks:
            x = block(x)
        return self.out_layer(x)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        first, *blocks = cast("list[NormedConv | ResidualBlock]", [*self.layers])
        x = F.elu(first.initialize(x))
        for block in blocks:
            x = block.initialize(x)
        return self.out_layer(x)

    @torch.no_grad()
    def folded(self, out_scale: Tensor, out_shift: Tensor) -> CouplingNet:
        """The network out_scale*net(x) + out_shift for inference, without parameters.

        Affine norms are folded into the convolutions, and so are `out_scale` and `out_shift`, which
        have one value per output channel. Activations inside are scaled by log2(e), which makes the
        exponential of ELU a power of two.
        """
        first, *blocks = self.layers
        weight, bias = cast("NormedConv", first).folded()
        layers: list[nn.Module] = [FoldedConv(weight * _LOG2_E, bias * _LOG2_E)]
        for block in blocks:
            folds = [cast("NormedConv", conv).folded() for conv in block.children()]
            conv1, conv2, conv3 = (FoldedConv(weight, bias * _LOG2_E) for weight, bias in folds)
            layers.append(ResidualBlock(conv1, conv2, conv3, _elu))
        weight, bias = self.out_layer.parameters()
        weight = weight * (out_scale / _LOG2_E)[:, None, None, None]
        return CouplingNet(layers, FoldedConv(weight, bias * out_scale + out_shift), _elu)


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


def _elu(x: Tensor) -> Tensor:
    """Compute a*ELU(x/a) = min(max(x, 0), a*2^x - a) in place, with a = log2(e).

    In place, since the backward pass of a convolution does not need its result. On CPUs the
    values are processed in cached parts: torch's own kernel computes expm1, which takes up to a
    fifth of the time of a convolution. The rounding error of 2^x (1e-7 absolute) is no larger
    than that of the convolutions.
    """
    dense = x.is_contiguous(memory_format=torch.channels_last)  # not so from NNPACK
    if x.device.type != "cpu" or not dense or x.requires_grad or torch.compiler.is_compiling():
        return torch.ops.aten.elu_(x, _LOG2_E, 1.0, 1 / _LOG2_E)
    zero, minus_a = x.new_zeros(()), x.new_full((), -_LOG2_E)
    for part in x.permute(0, 2, 3, 1).view(-1).split(_SCRATCH):
        scratch = torch.exp2(part, out=_scratch(part))
        torch.add(minus_a, scratch, alpha=_LOG2_E, out=scratch)
        torch.clamp(zero, min=part, max=scratch, out=part)
    return x


def _scratch(like: Tensor) -> Tensor:
    """Scratch memory of `_elu`, kept per thread: new memory costs a page fault every 4 KiB."""
    room = getattr(_THREAD, "room", None)
    if room is None or room.dtype != like.dtype:
        with torch.inference_mode(False):  # or later calls outside it could not write here
            room = _THREAD.room = torch.empty(_SCRATCH, dtype=like.dtype, device=like.device)
    return room[: len(like)]
