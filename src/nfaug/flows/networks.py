"""The network of a coupling, in its trainable form and folded for inference."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..run.device import is_read_at_once
from .attention import FrozenAttention, SelfAttention
from .layers import standardising_affine

_Map = Callable[[Tensor], Tensor]

_SCRATCH = 2**16  # values that `_elu` processes at a time
_LOG2_E = math.log2(math.e)
_THREAD = threading.local()

#: The order of activations and weights of folded networks on accelerators. In float32 without TF32
#: cuDNN may be several times slower in channels-last order, which CPUs compute in. Until a card has
#: measured both (the part `limit` of `make gpu`), it is the order for which cuDNN has its kernels.
ACCELERATOR_LAYOUT = torch.contiguous_format


class DisableTF32:
    """Context manager: convolutions and products of matrices on CUDA compute in full float32.

    It changes nothing where TF32 is off already, and puts back what it changes, so that settings
    for all of torch keep reaching cuDNN. The flags are global: other threads see them, and inside
    of the context `torch.backends.cudnn.allow_tf32` cannot be read (torch >= 2.9).

    It covers the forward pass alone: what autograd computes later, recomputed activations among
    it, follows the caller's settings. It has no effect in a compiled graph, which cannot set a
    global flag: callers of `torch.compile` must turn TF32 off themselves.
    """

    active: bool  # whether there may be a setting to change
    before: list[tuple[Any, str, Any]]  # owners of settings, their names and values outside

    def __init__(self, device: torch.device) -> None:
        self.active = device.type == "cuda" and not torch.compiler.is_compiling()
        self.before = []

    def __enter__(self) -> None:
        if not self.active:
            return
        cudnn: Any = torch.backends.cudnn
        matmul: Any = torch.backends.cuda.matmul
        if not hasattr(cudnn, "conv"):  # torch < 2.9
            for owner in (cudnn, matmul):
                self._set(owner, "allow_tf32", owner.allow_tf32, False)
            return
        if cudnn.conv.fp32_precision == "tf32":
            # A value of the convolutions' own would cut them off from the settings above them.
            self._set(cudnn, "fp32_precision", _own_value(cudnn), "ieee")
        if cudnn.conv.fp32_precision == "tf32":  # they have one already
            self._set(cudnn.conv, "fp32_precision", "tf32", "ieee")
        if matmul.fp32_precision == "tf32":
            self._set(matmul, "fp32_precision", _own_value(matmul), "ieee")

    def _set(self, owner: Any, name: str, before: Any, value: Any) -> None:
        self.before.append((owner, name, before))
        setattr(owner, name, value)

    def __exit__(self, *exception: object) -> None:
        while self.before:
            owner, name, value = self.before.pop()
            setattr(owner, name, value)


def _own_value(owner: Any) -> str:
    """What to set to return to a setting: "none" for one that is inherited from all of torch."""
    backends: Any = torch.backends
    if owner.fp32_precision == backends.fp32_precision:
        return "none"
    return owner.fp32_precision


class AffineNorm(nn.Module):
    """y = scale*x + shift per channel, set by the first batch and then trained.

    With `zero` the scale starts at 0, and the first batch does not set it.
    """

    scale: nn.Parameter
    shift: nn.Parameter

    def __init__(self, channels: int, *, zero: bool = False) -> None:
        super().__init__()
        self.zero = zero
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        if zero:
            nn.init.zeros_(self.scale)
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
        self.conv: nn.Conv2d = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_uniform_(self.conv.weight)
        self.norm: AffineNorm = AffineNorm(outputs, zero=zero)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of one convolution that computes the same."""
        weight = self.conv.weight * self.norm.scale[..., None]
        return weight, self.norm.shift.flatten()

    def forward(self, x: Tensor) -> Tensor:
        # Scaling weights takes less work than scaling activations, in both directions.
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, padding=self.conv.padding)

    def initialize(self, x: Tensor) -> Tensor:
        return self.norm.initialize(self.conv(x))


class ResidualBlock(nn.Module):
    """y = ELU(x + n3(ELU(n2(ELU(n1(x)))))), with normed convolutions n1, n2, n3."""

    def __init__(
        self, conv1: nn.Module, conv2: nn.Module, conv3: nn.Module, elu: _Map = F.elu_
    ) -> None:
        super().__init__()
        self.conv1 = conv1
        self.conv2 = conv2
        self.conv3 = conv3
        self.elu = elu

    def forward(self, x: Tensor) -> Tensor:
        h = self.elu(self.conv1(x))
        h = self.elu(self.conv2(h))
        return self.elu(self.conv3(h).add_(x))

    def initialize(self, x: Tensor) -> Tensor:
        conv1, conv2, conv3 = cast("Iterable[NormedConv]", self.children())
        h = F.elu(conv1.initialize(x))
        h = F.elu(conv2.initialize(h))
        return F.elu(conv3.initialize(h) + x)


class CouplingNet(nn.Module):
    """A convolution, residual blocks, a last convolution, and perhaps self-attention.

    Sub-modules have the names of the released weights: `layers.0` is the first convolution,
    `layers.i` the i-th block. Activations are in channels-last order on CPUs and in bfloat16. On
    accelerators those of the folded network have the order `ACCELERATOR_LAYOUT`.

    Args:
        layers: The first convolution and the blocks.
        out_layer: The last convolution.
        attention: What follows it; None for nothing.
        elu: The activation.

    Attributes:
        bf16: Whether passes that record gradients run in bfloat16; others never do.
    """

    layers: nn.ModuleList
    out_layer: nn.Module
    attention_block_after: nn.Module | None
    bf16: bool

    def __init__(
        self,
        layers: Iterable[nn.Module],
        out_layer: nn.Module,
        attention: nn.Module | None = None,
        elu: _Map = F.elu_,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.out_layer = out_layer
        self.attention_block_after = attention
        self.elu = elu
        self.bf16 = False

    @classmethod
    def new(
        cls, inputs: int, outputs: int, width: int, blocks: int, attention_heads: int = 0
    ) -> CouplingNet:
        """A network to train; the last convolution of each block and of the whole starts at 0."""
        layers: list[nn.Module] = [NormedConv(inputs, width, 3)]
        for _ in range(blocks):
            conv1 = NormedConv(width, width, 3)
            conv2 = NormedConv(width, width, 1)
            conv3 = NormedConv(width, width, 3, zero=True)
            layers.append(ResidualBlock(conv1, conv2, conv3))
        attention = None
        if attention_heads > 0:
            attention = SelfAttention(outputs, attention_heads)
        net = cls(layers, nn.Conv2d(width, outputs, 3, padding=1), attention)
        for parameter in net.out_layer.parameters():
            nn.init.zeros_(parameter)
        return net

    def forward(self, x: Tensor) -> Tensor:
        if self.bf16 and torch.is_grad_enabled():
            with torch.autocast(x.device.type, torch.bfloat16):
                return self._run(_channels_last(x)).to(x.dtype)
        if isinstance(self.out_layer, FoldedConv):
            x = x.contiguous(memory_format=_folded_layout(x.device))
        elif x.device.type == "cpu":
            x = _channels_last(x)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        first, *blocks = self.layers
        x = self.elu(first(x))
        for block in blocks:
            x = block(x)
        return self._end(x)

    def _end(self, x: Tensor) -> Tensor:
        x = self.out_layer(x)
        if self.attention_block_after is None:
            return x
        return self.attention_block_after(x)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        first, *blocks = cast("Iterable[NormedConv | ResidualBlock]", self.layers)
        x = F.elu(first.initialize(x))
        for block in blocks:
            x = block.initialize(x)
        return self._end(x)

    @torch.no_grad()
    def folded(self, out_scale: Tensor, out_shift: Tensor) -> CouplingNet:
        """The network out_scale*net(x) + out_shift for inference, without parameters.

        Affine norms are folded into the convolutions, and so are `out_scale` and `out_shift`, which
        have one value per output channel, or into the attention after them. Activations inside are
        scaled by log2(e), which makes the exponential of ELU a power of two.
        """
        first, *blocks = self.layers
        weight, bias = cast("NormedConv", first).folded()
        layers: list[nn.Module] = [FoldedConv(weight * _LOG2_E, bias * _LOG2_E)]
        for block in blocks:
            convs: list[nn.Module] = []
            for conv in block.children():
                weight, bias = cast("NormedConv", conv).folded()
                convs.append(FoldedConv(weight, bias * _LOG2_E))
            conv1, conv2, conv3 = convs
            layers.append(ResidualBlock(conv1, conv2, conv3, _elu))
        weight, bias = self.out_layer.parameters()
        attention = None
        if isinstance(self.attention_block_after, SelfAttention):
            attention = FrozenAttention(self.attention_block_after, out_scale, out_shift)
            out_scale = torch.ones_like(out_scale)
            out_shift = torch.zeros_like(out_shift)
        weight = weight * (out_scale / _LOG2_E)[:, None, None, None]
        out_layer = FoldedConv(weight, bias * out_scale + out_shift)
        return CouplingNet(layers, out_layer, attention, _elu)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _folded_layout(device: torch.device) -> torch.memory_format:
    """The order of activations and weights of folded networks on a device."""
    return torch.channels_last if is_read_at_once(device) else ACCELERATOR_LAYOUT


class FoldedConv(nn.Module):
    """A convolution for inference: buffers instead of parameters, weights in the device's order."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        layout = _folded_layout(weight.device)
        self.channels_last: bool = layout == torch.channels_last  # torch.save takes no layout
        self.register_buffer("weight", weight.detach().clone(memory_format=layout))
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        layout = _folded_layout(x.device)
        channels_last = layout == torch.channels_last
        if channels_last != self.channels_last:  # it came from another device
            # Strides of a 1x1 kernel pass for both orders, and torch goes by them: `contiguous`
            # would leave them.
            self.weight = self.weight.clone(memory_format=layout)
            self.channels_last = channels_last
        size = self.weight.shape[-1]
        if size == 1 and channels_last and not is_read_at_once(x.device):
            # A GPU adds a bias to a convolution by a launch of its own, to a product within it.
            pixels = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return pixels.permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias, padding=size // 2)


def _elu(x: Tensor) -> Tensor:
    """Compute a*ELU(x/a) = min(max(x, 0), a*2^x - a) in place, with a = log2(e).

    It may work in place, because the backward pass of a convolution does not need its result. On
    CPUs the values are processed in parts that fit the cache: torch's own kernel computes expm1,
    which takes up to a fifth of the time of a convolution. The rounding error of 2^x (1e-7
    absolute) is no larger than that of the convolutions.
    """
    is_dense = x.is_contiguous(memory_format=torch.channels_last)  # results of NNPACK are not
    if x.device.type != "cpu" or not is_dense or x.requires_grad or torch.compiler.is_compiling():
        return torch.ops.aten.elu_(x, _LOG2_E, 1.0, 1 / _LOG2_E)
    zero = x.new_zeros(())
    minus_a = x.new_full((), -_LOG2_E)
    for part in x.permute(0, 2, 3, 1).view(-1).split(_SCRATCH):
        scratch = torch.exp2(part, out=_scratch(part))
        torch.add(minus_a, scratch, alpha=_LOG2_E, out=scratch)
        torch.clamp(zero, min=part, max=scratch, out=part)
    return x


def _scratch(like: Tensor) -> Tensor:
    """Scratch memory of `_elu`, kept per thread: new memory costs a page fault every 4 KiB."""
    scratch: Tensor | None = getattr(_THREAD, "scratch", None)
    if scratch is None or scratch.dtype != like.dtype:
        # Calls outside of inference mode cannot write to tensors that are made inside it.
        with torch.inference_mode(False):
            scratch = torch.empty(_SCRATCH, dtype=like.dtype, device=like.device)
        _THREAD.scratch = scratch
    return scratch[: len(like)]
