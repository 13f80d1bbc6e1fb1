"""Signs that a flow's scales die or explode, while there is still time to change the settings."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...flows.flow import Flow
from ...flows.layers import ActNorm
from ...flows.networks import AffineNorm

__all__ = ["scale_warnings"]

# ActNorm starts at 1/std of a position, up to 1,000 where pixels are constant.
_DEAD, _EXPLODING = 1e-5, 1e5


@torch.no_grad()
def scale_warnings(flow: Flow) -> dict[str, str]:
    """What is wrong with the scales of each layer, by its name; empty where nothing is.

    A scale is dead where its size is below 1e-5, so that a coordinate, or all channels of a norm
    that did not start at zero, no longer pass; and it explodes above 1e5.
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
            found[name] = f"the scales of {name} explode: {most:.2g} is the largest"
        elif least < _DEAD:
            found[name] = f"scales of {name} are dead: {least:.2g} is the smallest"
    return found
