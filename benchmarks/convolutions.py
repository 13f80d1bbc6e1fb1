"""The limit of `benchmarks/flow.py`: the convolutions of the coupling networks alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.flows.flow import Flow
from nfaug.flows.mef import FrozenCoupling
from nfaug.flows.networks import CouplingNet

__all__ = ["Convolutions", "convolutions"]


class Convolutions:
    """The convolutions of a flow's coupling networks, in a type and a layout, and their FLOP."""

    def __init__(
        self,
        flow: Flow,
        batch: int,
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        frozen = flow.freeze()
        self.layers: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []
        self.flop = 0
        height, width = flow.config.size
        for steps in frozen.blocks:
            height, width = height // 2, width // 2
            for step in steps:
                coupling = step.coupling
                assert isinstance(coupling, FrozenCoupling)
                x = torch.randn(batch, coupling.net.layers[0].weight.shape[1], height, width)
                x = x.to(flow.device, dtype).contiguous(memory_format=layout)
                convs = []
                for conv in convolutions(coupling.net):
                    weight = conv.weight.to(dtype).contiguous(memory_format=layout)
                    convs.append((weight, conv.bias.to(dtype)))
                self.layers.append((x, convs))
                self.flop += 2 * height * width * sum(weight.numel() for weight, _ in convs)

    def __call__(self) -> None:
        with torch.no_grad():
            for x, convs in self.layers:
                for weight, bias in convs:
                    x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def train(self) -> None:
        """Forward and backward of the whole batch."""
        for x, convs in self.layers:
            for weight, _ in convs:
                weight.requires_grad_(True).grad = None
                x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
            x.backward(torch.ones_like(x))


def convolutions(net: CouplingNet) -> list[nn.Module]:
    """The folded convolutions of a network in order."""
    first, *blocks = net.layers
    return [first, *(conv for block in blocks for conv in block.children()), net.out_layer]
