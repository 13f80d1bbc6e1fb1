"""Detection of scales that vanish or explode during training."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...flows.flow import Flow
from ...flows.layers import ActNorm
from ...flows.networks import AffineNorm

__all__ = ["scale_warnings"]

# ActNorm starts at 1/std per position, which reaches 1,000 where pixels are constant.
_DEAD, _EXPLODING = 1e-5, 1e5


@torch.no_grad()
def scale_warnings(flow: Flow) -> dict[str, str]:
    """Messages about layers whose scales are dead (below 1e-5) or explode (above 1e5), by layer.

    An `ActNorm` is dead if any coordinate is; an `AffineNorm` if all its channels are and it did
    not start at zero.
    """
    found = {}
    extremes = {}
    for name, module in flow.named_modules():
        if isinstance(module, ActNorm):
            size = F.softplus(module.scale)
            extremes[name] = torch.stack([size.min(), size.max()])
        elif isinstance(module, AffineNorm):
            size = module.scale.abs()
            least = size.new_tensor(1.0) if module.zero else size.max()
            extremes[name] = torch.stack([least, size.max()])
    values = torch.stack(list(extremes.values())).tolist() if extremes else []
    for name, (least, most) in zip(extremes, values, strict=True):
        if not most <= _EXPLODING:  # NaN too
            found[name] = f"the scales of {name} explode: the largest is {most:.2g}"
        elif least < _DEAD:
            found[name] = f"scales of {name} are dead: the smallest is {least:.2g}"
    return found
