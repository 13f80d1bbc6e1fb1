"""The random draws of NFA: made in one place, from one seed, before anything is computed."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .settings import MixSettings

__all__ = ["NFAParams", "SharedGenerator", "make_params", "own_seed", "seed_of", "to_device"]

_GOLDEN = 0x9E3779B97F4A7C15  # separates ranks and workers; odd, so the lower 32 bits differ too
_INDEX_BITS = 31
_CPU = torch.device("cpu")  # given explicitly: a script may have set another default device


@dataclass(frozen=True)
class NFAParams:
    """The draws of one call of `NFAugment`; `params=` replays them.

    Attributes:
        batch: Number of images in the batch.
        index: (n,) positions of the images that go through the flow.
        chosen: (n,) bool, which of them are augmented.
        partner: (n,) row of the memory, or position within `index`.
        fallback: (n,) row of the memory that a self-match uses instead of `partner`.
        from_memory: (n,) bool, whether `partner` is a row of the memory.
        paired: (n,) bool, whether a partner was found.
        weights: (n, r) or (n, 1) mixing weights times the strength.
        noise: (n, d) noise that is added to the latents, or (n, 0) for none.
        memory: Number of rows of the memory that was drawn from, 0 if none was, None if unknown.
    """

    batch: int
    index: Tensor
    chosen: Tensor
    partner: Tensor
    fallback: Tensor
    from_memory: Tensor
    paired: Tensor
    weights: Tensor
    noise: Tensor
    memory: int | None = None

    def to(self, device: torch.device | str) -> NFAParams:
        """The same parameters on another device, copied without synchronizing the host."""
        moved: dict[str, Any] = {
            name: to_device(x, device) if isinstance(x, Tensor) else x
            for name, x in vars(self).items()
        }
        return NFAParams(**moved)

    def changing(self) -> Tensor:
        """Whether each image may change, (n,) bool."""
        return self.chosen & (self.paired | (self.noise.shape[1] > 0))

    def needed(self) -> Tensor:
        """Whether each image may change or be the partner of one that does, (n,) bool."""
        changing = self.changing()
        partners = torch.zeros_like(changing, dtype=torch.int64)
        position = torch.where(self.from_memory, 0, self.partner)
        from_batch = (changing & ~self.from_memory).long()
        return changing | (partners.index_add(0, position, from_batch) > 0)


def make_params(
    labels: Tensor,
    usable: Tensor,
    settings: MixSettings,
    *,
    rank: int,
    dim: int,
    offsets: Tensor | None = None,
    rows: int = 0,
    generator: torch.Generator | None = None,
) -> NFAParams:
    """Draw images, partners and weights for a batch. Reads no value back from an accelerator.

    Args:
        labels: (B,) class indices in range.
        usable: (B,) bool, images that can be partners.
        settings: What to draw.
        rank: Number of PCA axes r.
        dim: Dimension d of the latents.
        offsets: (K + 1,) first row of each class in the memory; None without a memory.
        rows: Number of rows of the memory.
        generator: CPU generator; None for torch's.
    """
    batch, device = len(labels), labels.device
    p = settings.p
    count = _augmented_count(batch, max(p) if isinstance(p, tuple) else p)
    width = 1 if settings.mix == "pair" else rank
    noise_dim = dim if settings.noise else 0
    draws = draw(batch, count, width, settings.alpha, noise_dim, generator=generator)
    index = to_device(draws.index, device)
    own = labels[index]
    share = _per_class(p, device)[own] if isinstance(p, tuple) else p
    # `count` is rounded up; choosing with probability p * batch / count makes the share exactly p.
    chosen = to_device(draws.choose, device) * count < share * batch
    uniform = to_device(draws.partner, device)
    partner, paired = pick_in_batch(uniform, own, usable[index])
    from_memory, fallback, memory = torch.zeros_like(paired), torch.zeros_like(partner), 0
    if offsets is not None and settings.partners != "batch":
        memory = rows
        row, fallback, stored = pick_in_memory(
            uniform, to_device(draws.fallback, device), own, offsets
        )
        if settings.partners == "memory":
            paired = stored
        from_memory = stored
        if settings.partners == "both":
            from_memory = stored & (~paired | (to_device(draws.source, device) < 0.5))
        partner = torch.where(from_memory, row, partner)
        paired = paired | stored
    weights = draws.weights * settings.strength
    if settings.axes is not None:
        weights = weights.expand(-1, rank).clone()
        weights[:, settings.axes :] = 0
    return NFAParams(
        batch, index, chosen, partner, fallback, from_memory, paired, to_device(weights, device),
        settings.noise * to_device(draws.normal, device), memory,
    )  # fmt: skip


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device, copied without synchronizing the host."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # A copy from pageable memory waits for all queued GPU work. The allocator does not reuse freed
    # pinned memory before its copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


def seed_of(*parts: int) -> int:
    """A different seed for each combination. Sums of the parts would coincide for some."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")  # torch's CPU generator uses 32 bits


def _per_class(p: tuple[float, ...], device: torch.device) -> Tensor:
    return to_device(torch.tensor(p, dtype=torch.float32, device=_CPU), device)


@dataclass(frozen=True)
class Draws:
    """Random numbers of one call, on the CPU, so that a seed gives the same on every device."""

    index: Tensor  # (n,) distinct positions in the batch
    choose: Tensor  # (n,) in [0, 1), like `source`
    source: Tensor
    partner: Tensor  # (n,) integers in [0, 2^31), like `fallback`
    weights: Tensor  # (n, width) from Beta(alpha, alpha)
    fallback: Tensor
    normal: Tensor  # (n, noise_dim) from N(0, 1)


def draw(
    batch: int,
    count: int,
    width: int,
    alpha: float,
    noise_dim: int = 0,
    *,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw all random numbers of one call for `count` of `batch` images.

    They come from a new generator, seeded by one number from `generator` (None for torch's) and
    by the process, so that ranks of a distributed run and data-loader workers differ even with
    equal seeds. With `count` 0 the state of `generator` does not change.
    """
    seed = own_seed(generator) if count else 0
    own = torch.Generator(_CPU).manual_seed(seed)
    index = torch.randperm(batch, generator=own, device=_CPU)[:count]
    choose, source = _uniform((2, count), own)
    partner = torch.randint(2**_INDEX_BITS, (count,), generator=own, device=_CPU)
    weights = _beta(alpha, (count, width), own)
    fallback = torch.randint(2**_INDEX_BITS, (count,), generator=own, device=_CPU)
    normal = torch.randn((count, noise_dim), generator=own, device=_CPU)
    return Draws(index, choose, source, partner, weights, fallback, normal)


class SharedGenerator(torch.Generator):
    """A CPU generator whose draws do not depend on the rank or on the data-loader worker."""


def own_seed(generator: torch.Generator | None = None) -> int:
    """A seed below 2^62 from one number of a generator, of this rank and data-loader worker."""
    if isinstance(generator, SharedGenerator):
        return int(torch.randint(2**62, (), generator=generator, device=_CPU))
    drawn = int(torch.randint(2**62, (), generator=generator, device=_CPU))
    worker = get_worker_info()
    if generator is not None and worker is not None:  # every worker has an equal copy of it
        return seed_of(drawn, _rank(), worker.seed)
    return (drawn + _GOLDEN * _rank()) % 2**62


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK") or 0)


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=dtype, device=_CPU)


def _beta(alpha: float, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Beta(alpha, alpha) for any alpha > 0, as g/(g + g') of two gamma variables.

    Computed in logarithms: a gamma variable of shape alpha < 1 underflows, while
    log g = log g(alpha + 1) + log(u)/alpha does not (Marsaglia & Tsang 2000).
    """
    if alpha == 1:
        return _uniform(shape, generator)
    shapes = torch.full((2, *shape), alpha + 1, dtype=torch.float64, device=_CPU)
    uniform = _uniform(tuple(shapes.shape), generator, torch.float64)
    logs = torch._standard_gamma(shapes, generator=generator).log()
    logs = logs + torch.log1p(-uniform) / alpha
    return torch.sigmoid(logs[0] - logs[1]).float()


def pick_in_batch(uniform: Tensor, labels: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Another allowed position with the same label, and whether there is one; (n,) both.

    `uniform` holds integers in [0, 2^31) that choose among the candidates.
    """
    same = (labels[:, None] == labels[None, :]) & allowed[None, :]
    same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    running = same.cumsum(1)
    count = same.sum(1)
    number = _below(uniform, count)
    # The position of candidate `number`: the first where the running count exceeds it.
    partner = (running <= number[:, None]).sum(1).clamp(max=max(0, len(labels) - 1))
    return partner, count > 0


def pick_in_memory(
    uniform: Tensor, second: Tensor, labels: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A row of the class's memory, another row of it, and whether the class has rows; (n,) each.

    The second row is uniform over the remaining rows, and equals the first if there are none.
    """
    start, size = offsets[labels], offsets[labels + 1] - offsets[labels]
    first = _below(uniform, size)
    step = 1 + _below(second, (size - 1).clamp(min=0))
    return start + first, start + (first + step) % size.clamp(min=1), size > 0


def _below(uniform: Tensor, count: Tensor) -> Tensor:
    """An integer in [0, count), or 0; float32 would be too coarse for large counts."""
    return (uniform * count) >> _INDEX_BITS


def _augmented_count(batch: int, p: float) -> int:
    """ceil(p * batch), without rounding 64.000000001 up."""
    return min(batch, math.ceil(p * batch - 1e-6)) if p > 0 else 0
