"""Self-attention at the end of a coupling network, in its trainable form and for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """y = x + P a + b, where a is the attention of each position to all positions of its image.

    In each of `heads` heads of width d = channels/heads,

        a = softmax(q k^T / sqrt(d)) v,

    where q, k and v are an affine map of x, normalized to mean 0 and variance 1 over the positions
    of each channel. P and b start at 0, so that y = x. Source: Ho et al. 2020, arXiv:2006.11239,
    with one head. Sub-modules have the names of the released weights.

    torch's fused kernels have no second derivatives, and say so; those of a block
    `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` have.

    Args:
        channels: Channels of x and y, a multiple of `heads`.
        heads: Number of heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # The scale and shift of a group normalization with one channel a group.
        self.norm: nn.GroupNorm = nn.GroupNorm(channels, channels)
        self.qkv: nn.Conv1d = nn.Conv1d(channels, 3 * channels, 1)  # for each head q, k and v
        self.proj_out: nn.Conv1d = nn.Conv1d(channels, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the map from normalized x to q, k and v."""
        weight, bias = self.qkv.parameters()
        return weight[..., 0] * self.norm.weight, bias + weight[..., 0] @ self.norm.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.proj_out.parameters()
        attended = _attend(x, *self.folded(), self.heads)
        return x + _as_image(F.linear(attended, weight[..., 0], bias), x)


class FrozenAttention(nn.Module):
    """out_scale*y + out_shift of a `SelfAttention`, for inference, without parameters.

    Args:
        attention: The trained layer.
        out_scale: Shape (C,).
        out_shift: Shape (C,).
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def __init__(self, attention: SelfAttention, out_scale: Tensor, out_shift: Tensor) -> None:
        super().__init__()
        self.heads = attention.heads
        qkv_weight, qkv_bias = attention.folded()
        weight, bias = attention.proj_out.parameters()
        self.register_buffer("qkv_weight", qkv_weight)
        self.register_buffer("qkv_bias", qkv_bias)
        self.register_buffer("scale", out_scale[:, None, None])
        self.register_buffer("weight", weight[..., 0] * out_scale[:, None])
        self.register_buffer("bias", bias * out_scale + out_shift)

    def forward(self, x: Tensor) -> Tensor:
        attended = _attend(x, self.qkv_weight, self.qkv_bias, self.heads)
        change = _as_image(F.linear(attended, self.weight, self.bias), x)
        return torch.addcmul(change, x, self.scale)


def _attend(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Return a, shape (B, H*W, C), of images x, shape (B, C, H, W)."""
    pixels = x.flatten(2)
    # Group normalization with one channel a group. torch's own refuses a batch of one position.
    normal = F.layer_norm(pixels, pixels.shape[2:])
    qkv = F.linear(normal.mT, weight, bias).unflatten(2, (heads, -1)).transpose(1, 2)
    q, k, v = qkv.chunk(3, 3)  # each (B, heads, H*W, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _as_image(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows of pixels, shape (B, H*W, C), as an image in channels-last order."""
    return rows.mT.unflatten(2, like.shape[2:])
