"""The flow as research code writes it: the yardstick of `benchmarks/flow.py`.

It forms every exponential by scaling and squaring in loops that look at the data, keeps norms
apart from convolutions, computes exp(W) at each call, forms all weights of self-attention and
leaves tensors in their default layout.

The series ends where a term has vanished altogether, after some 25 terms, so that there is no
tolerance to choose. At batch 64 on one core the exponentials of n = 6, 12 and 24 then take 254, 61
and 52 ms; 164, 69 and 34 ms had been measured of such a loop on two cores, when this yardstick was
set. With `tolerance=1e-8`, some 9 terms and the same result in float32, they take 60, 14 and 14 ms:
a ratio to the plain flow depends on this choice, so quote it with the ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.flows.flow import Flow
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.networks import CouplingNet, NormedConv

__all__ = ["PlainFlow", "plain_expm"]


def plain_expm(matrices: Tensor, tolerance: float = 0.0) -> Tensor:
    """exp of a batch of matrices by scaling and squaring, every loop looking at the data."""
    norm = matrices.abs().sum(-1).max()
    squarings = 0
    while norm.item() > 0.5:
        matrices, norm, squarings = matrices / 2, norm / 2, squarings + 1
    total = torch.eye(matrices.shape[-1], device=matrices.device) + matrices
    term, k = matrices, 2
    while term.abs().max().item() > tolerance:
        term = matrices @ term / k
        total, k = total + term, k + 1
    for _ in range(squarings):
        total = total @ total
    return total


def plain_net(net: CouplingNet, x: Tensor) -> Tensor:
    """The coupling network layer by layer."""

    def normed(layer: NormedConv, x: Tensor) -> Tensor:
        return layer.norm(layer.conv(x))

    first, *blocks = net.layers
    x = F.elu(normed(first, x))
    for block in blocks:
        h = F.elu(normed(block.conv1, x))
        h = F.elu(normed(block.conv2, h))
        x = F.elu(normed(block.conv3, h) + x)
    x = net.out_layer(x)
    attention = net.attention_block_after
    if attention is None:
        return x
    heads = attention.qkv(attention.norm(x).flatten(2)).unflatten(1, (attention.heads, -1))
    q, k, v = heads.chunk(3, 2)  # each (B, heads, d, positions)
    share = torch.softmax(q.mT @ k * q.shape[2] ** -0.5, 3)
    attended = (v @ share.mT).flatten(1, 2)
    return x + attention.proj_out(attended).view_as(x)


class PlainFlow(nn.Module):
    """The same map from the same weights, for full-rank couplings."""

    def __init__(self, flow: Flow, tolerance: float = 0.0) -> None:
        super().__init__()
        self.flow = flow
        self.tolerance = tolerance

    def coupling(self, layer: MatrixExpCoupling, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        n = layer.n
        x1, x2 = x[:, : x.shape[1] - n], x[:, x.shape[1] - n :]
        raw = plain_net(layer.net, x1)
        t, raw = raw[:, :n], raw[:, n:]
        m = layer.rescale * torch.tanh(layer.scale * raw + layer.shift) + layer.reshift
        m = m.unflatten(1, (n, n)).permute(0, 3, 4, 2, 1)  # M[i, j] is channel j*n + i
        if sign < 0:
            x2 = x2 - t
        exponential = plain_expm(sign * m, self.tolerance)
        y = (exponential @ x2.permute(0, 2, 3, 1).unsqueeze(-1)).squeeze(-1)
        y = y.permute(0, 3, 1, 2)
        trace = m.diagonal(dim1=-2, dim2=-1).sum((1, 2, 3))
        return torch.cat([x1, y + t if sign > 0 else y], 1), sign * trace

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total, kept = 0.0, []
        for level, steps in enumerate(self.flow.blocks):
            if level:
                x, rest = x.chunk(2, 1)
                kept.append(rest)
            x = self.flow.squeeze(x)[0]
            for step in steps:
                scale = F.softplus(step.actnorm.scale)
                x = scale * x + step.actnorm.shift
                weight = step.conv1x1.weight
                x = F.conv2d(x, plain_expm(weight, self.tolerance)[:, :, None, None])
                total = total + scale.log().sum() + x[0, 0].numel() * torch.trace(weight)
                x, logdet = self.coupling(step.couplinglayer, x, 1)
                total = total + logdet
        z = self.flow.unsqueeze.inverse(x)[0]
        for rest in reversed(kept):
            z = self.flow.unsqueeze.inverse(torch.cat([z, rest], 1))[0]
        return z, total

    def inverse(self, z: Tensor) -> Tensor:
        kept = []
        z = self.flow.unsqueeze(z)[0]
        for _ in range(self.flow.config.levels - 1):
            z, rest = z.chunk(2, 1)
            kept.append(rest)
            z = self.flow.unsqueeze(z)[0]
        for steps in reversed(self.flow.blocks):
            for step in reversed(steps):
                z, _ = self.coupling(step.couplinglayer, z, -1)
                z = F.conv2d(z, plain_expm(-step.conv1x1.weight, self.tolerance)[:, :, None, None])
                z = (z - step.actnorm.shift) / F.softplus(step.actnorm.scale)
            z = self.flow.squeeze.inverse(z)[0]
            if kept:
                z = torch.cat([z, kept.pop()], 1)
        return z
