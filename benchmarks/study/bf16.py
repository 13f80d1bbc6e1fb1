"""Training in bfloat16, also on CPUs whose convolutions are slow in that type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from nfaug.training.run.precision import has_fast_bf16

__all__ = ["bf16"]


@contextmanager
def bf16() -> Iterator[None]:
    """PyTorch's autocast to bfloat16: half the time on CPUs that know the type.

    On others, PyTorch's convolutions in bfloat16 take many times as long as in float32. There,
    convolutions are computed in float32 and rounded to bfloat16, as oneDNN does on CPUs that know
    the type: only the order of sums differs.
    """
    with torch.autocast("cpu", torch.bfloat16):
        if has_fast_bf16():
            yield
        else:
            with _RoundedConvolutions():
                yield


class _RoundedConvolutions(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    shape = [list(_pair(each)) for each in (stride, padding, dilation)]
    rounded = [None if each is None else each.bfloat16() for each in (input, weight, bias)]
    found: Tensor = _Convolution.apply(*rounded, *shape, groups)
    return found


class _Convolution(torch.autograd.Function):
    """A convolution of bfloat16 values with sums in float32; gradients are rounded as well."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = stride, padding, dilation, False, [0, 0], groups
        ctx.biases = None if bias is None else list(bias.shape)
        with torch.autocast("cpu", enabled=False):
            given = None if bias is None else bias.float()
            found = torch.convolution(input.float(), weight.float(), given, *ctx.geometry)
        return found.bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(
            gradient.float(), input.float(), weight.float(), ctx.biases, *ctx.geometry, wanted
        )
        return *(None if each is None else each.bfloat16() for each in found), *([None] * 4)
