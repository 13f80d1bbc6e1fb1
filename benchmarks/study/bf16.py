"""Training in bfloat16, also on CPUs whose products are slow in that type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nfaug.training.run.precision import has_fast_bf16

__all__ = ["bf16"]


@contextmanager
def bf16() -> Iterator[None]:
    """PyTorch's autocast to bfloat16: half the time on CPUs that know the type.

    On others, PyTorch's convolutions and matrix products in bfloat16 take eight to nine times as
    long as in float32. There, they are computed in float32 from values rounded to bfloat16, and
    their results and gradients are rounded to it, as oneDNN does on CPUs that know the type. The
    order of sums differs, and fused attention keeps its weights in float32.
    """
    with torch.autocast("cpu", torch.bfloat16):
        if has_fast_bf16():
            yield
        else:
            with _RoundedProducts():
                yield


class _RoundedProducts(TorchFunctionMode):
    slow = frozenset(
        (
            torch.conv2d,
            torch.matmul,
            Tensor.matmul,
            Tensor.__matmul__,
            F.linear,
            F.scaled_dot_product_attention,
        )
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self.slow:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            rounded = {name: _rounded(value) for name, value in kwargs.items()}
            return func(*map(_rounded, args), **rounded).bfloat16()


def _rounded(value: Any) -> Any:
    """Real numbers in float32 with values and gradients of bfloat16; all else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.bfloat16().float()
    return value
