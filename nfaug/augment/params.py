"""The random part of NFA: drawn in one place, from one seed, before anything is computed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ["NFAParams", "make_params"]

_GOLDEN = 0x9E3779B97F4A7C15  # spreads ranks and workers; odd, so the lower 32 bits differ too
_COIN_BITS = 31
_CPU = torch.device("cpu")  # said each time: a script may have set another default device


@dataclass(frozen=True)
class NFAParams:
    """What one call of `NFAugment` does; pass it back as `params=` to do the same again.

    Attributes:
        batch: number of images in the batch that it was made for.
        index: (n,) images that go through the flow.
        chosen: (n,) which of them are to be augmented.
        partner: (n,) row of the memory, or position within `index`.
        other: (n,) row of the memory for an image that finds itself in that of `partner`.
        from_memory: (n,) which of the two.
        paired: (n,) whether a partner was found.
        weights: (n, r) or (n, 1), how far to go towards the partner along each axis.
        noise: (n, d), what is added to the latents besides, or (n, 0) for nothing.
        memory: number of rows of the memory that it was made for, 0 where none is named, None
            where that is not known.
    """

    batch: int
    index: Tensor
    chosen: Tensor
    partner: Tensor
    other: Tensor
    from_memory: Tensor
    paired: Tensor
    weights: Tensor
    noise: Tensor
    memory: int | None = None

    def to(self, device: torch.device | str) -> NFAParams:
        """The same parameters on another device; the host does not wait for the copy."""
        moved: dict[str, Any] = {
            name: to_device(x, device) if isinstance(x, Tensor) else x
            for name, x in vars(self).items()
        }
        return NFAParams(**moved)


def make_params(
    labels: Tensor,
    usable: Tensor,
    *,
    p: float | Tensor,
    alpha: float,
    strength: float,
    rank: int,
    axes: int | None,
    mix: str,
    partners: str,
    offsets: Tensor | None,
    rows: int = 0,
    noise: float = 0.0,
    dim: int = 0,
    generator: torch.Generator | None = None,
) -> NFAParams:
    """Which images, which partners and how far, for labels (B,) that are in range.

    `offsets` are those of the memory's `rows`, None where there is none; `dim` is that of the
    latents. Settings as in `NFAugment`. Nothing is read back from an accelerator.
    """
    batch, device = len(labels), labels.device
    slots = _slots(batch, float(p.max()) if isinstance(p, Tensor) else p)
    width = 1 if mix == "pair" else rank
    coins = draw(batch, slots, width, alpha, dim if noise else 0, generator=generator)
    index = to_device(coins.index, device)
    own = labels[index]
    # Exactly p on average: `slots` images are drawn, and each is chosen with what is left.
    share = to_device(p, device)[own] if isinstance(p, Tensor) else p
    chosen = to_device(coins.choose, device) * slots < share * batch
    coin = to_device(coins.partner, device)
    partner, paired = pick_in_batch(coin, own, usable[index])
    from_memory, other, memory = torch.zeros_like(paired), torch.zeros_like(partner), 0
    if offsets is not None and partners != "batch":
        memory = rows
        row, other, stored = pick_in_memory(coin, to_device(coins.other, device), own, offsets)
        if partners == "memory":
            paired = stored
        from_memory = stored
        if partners == "both":
            from_memory = stored & (~paired | (to_device(coins.source, device) < 0.5))
        partner = torch.where(from_memory, row, partner)
        paired = paired | stored
    weights = coins.weights * strength
    if axes is not None:
        weights = weights.expand(-1, rank).clone()
        weights[:, axes:] = 0
    return NFAParams(
        batch, index, chosen, partner, other, from_memory, paired, to_device(weights, device),
        noise * to_device(coins.normal, device), memory,
    )  # fmt: skip


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # From ordinary memory a copy has the host wait until the GPU has done all that was queued
    # before it. Pinned memory that is let go is not used again before its copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Coins:
    """Uniform numbers and mixing weights, on the CPU: the same on every device for one seed."""

    index: Tensor  # (n,) distinct positions in the batch
    choose: Tensor  # (n,) in [0, 1), as the next
    source: Tensor
    partner: Tensor  # (n,) whole numbers in [0, 2^31)
    weights: Tensor  # (n, width) from Beta(alpha, alpha)
    other: Tensor  # as partner
    normal: Tensor  # (n, noisy) from N(0, 1)


def draw(
    batch: int,
    slots: int,
    width: int,
    alpha: float,
    noisy: int = 0,
    *,
    generator: torch.Generator | None = None,
) -> Coins:
    """Draw everything that one call needs; `noisy` is the number of noise's dimensions.

    The numbers come from a generator of their own, seeded by one draw of `generator` (of torch's
    when it is None) and by the process: ranks of a distributed run and workers of a loader differ
    even where their seeds do not.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=_CPU)) + _GOLDEN * _rank()
    worker = get_worker_info()
    if generator is not None and worker is not None:  # a copy, the same in every worker
        seed += _GOLDEN * worker.seed
    own = torch.Generator(_CPU).manual_seed(seed % 2**62)
    index = torch.randperm(batch, generator=own, device=_CPU)[:slots]
    choose, source = _uniform((2, slots), own)
    partner = torch.randint(2**_COIN_BITS, (slots,), generator=own, device=_CPU)
    weights = _beta(alpha, (slots, width), own)
    other = torch.randint(2**_COIN_BITS, (slots,), generator=own, device=_CPU)
    normal = torch.randn((slots, noisy), generator=own, device=_CPU)
    return Coins(index, choose, source, partner, weights, other, normal)


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK") or 0)


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=dtype, device=_CPU)


def _beta(alpha: float, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Beta(alpha, alpha) as g/(g + g') of two gamma variables, in logarithms: any alpha > 0.

    A gamma variable of shape alpha < 1 underflows; log g = log g(alpha + 1) + log(u)/alpha does not
    (Marsaglia & Tsang 2000).
    """
    if alpha == 1:
        return _uniform(shape, generator)
    shapes = torch.full((2, *shape), alpha + 1, dtype=torch.float64, device=_CPU)
    uniform = _uniform(tuple(shapes.shape), generator, torch.float64)
    logs = torch._standard_gamma(shapes, generator=generator).log()
    logs = logs + torch.log1p(-uniform) / alpha
    return torch.sigmoid(logs[0] - logs[1]).float()


def pick_in_batch(coin: Tensor, labels: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Another position with the same label, uniformly, and whether there is one; (n,) both."""
    same = (labels[:, None] == labels[None, :]) & allowed[None, :]
    same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    running = same.cumsum(1)
    count = same.sum(1)
    wanted = _below(coin, count)
    # The first position where the running count passes `wanted`.
    partner = (running <= wanted[:, None]).sum(1).clamp(max=max(0, len(labels) - 1))
    return partner, count > 0


def pick_in_memory(
    coin: Tensor, second: Tensor, labels: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A row of the class's part of the memory, another, and whether there is a first; (n,) each.

    Both uniformly, the second over the rows that are left: where there is one row only, the same.
    """
    start, size = offsets[labels], offsets[labels + 1] - offsets[labels]
    first = _below(coin, size)
    step = 1 + _below(second, (size - 1).clamp(min=0))
    return start + first, start + (first + step) % size.clamp(min=1), size > 0


def _below(coin: Tensor, count: Tensor) -> Tensor:
    """A whole number in [0, count), or 0: exact for any count, where float32 has too few steps."""
    return (coin * count) >> _COIN_BITS


def _slots(batch: int, p: float) -> int:
    """ceil(p * batch), with a guard against p * batch = 64.000000001."""
    return min(batch, math.ceil(p * batch - 1e-6)) if p > 0 else 0
