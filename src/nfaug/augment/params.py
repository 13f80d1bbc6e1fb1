"""The draws of one call of NFAugment, the seeds that they come from, and the choice of partners."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..classes.pca import ClasswisePCA
from ..io.device import is_read_at_once, to_device
from ..io.ranks import own_rank

__all__ = [
    "NFAParams",
    "SharedGenerator",
    "check_params",
    "own_seed",
    "pick_in_batch",
    "pick_in_memory",
    "rows_where",
    "seed_of",
]

_INDEX_BITS = 31


@dataclass(frozen=True)
class NFAParams:
    """The draws of one call of `NFAugment`; `params=` replays them.

    Attributes:
        batch: Number of images in the batch.
        mix: How two latents are mixed: "axis", "pair" or "regions".
        index: (n,) positions of the images that go through the flow.
        chosen: (n,) bool, which of them are augmented.
        partner: (n,) row of the memory, or position within `index`.
        fallback: (n,) row of the memory that a self-match uses instead of `partner`.
        from_memory: (n,) bool, whether `partner` is a row of the memory.
        paired: (n,) bool, whether a partner was found.
        weights: (n, r) or (n, 1) mixing weights times the strength, or (n, 32, 32) masks.
        noise: (n, d) noise that is added to the latents, or (n, 0) for none.
        memory: Number of rows of the memory that partners come from; 0 for none.
    """

    batch: int
    mix: str
    index: Tensor
    chosen: Tensor
    partner: Tensor
    fallback: Tensor
    from_memory: Tensor
    paired: Tensor
    weights: Tensor
    noise: Tensor
    memory: int = 0

    def to(self, device: torch.device | str) -> NFAParams:
        """The same parameters on another device, copied without synchronising the host."""
        own = vars(self).values()
        moved: Any = [to_device(x, device) if isinstance(x, Tensor) else x for x in own]
        return NFAParams(*moved)


def check_params(params: NFAParams, images: int, pca: ClasswisePCA) -> None:
    """Raise ValueError unless draws are those of so many images and fit these axes and memory."""
    if params.batch != images:
        raise ValueError(f"params were drawn for {params.batch} images; got {images}")
    rows = 0 if pca.memory is None else len(pca.memory)
    axes = params.weights.shape[1] if params.mix != "regions" else pca.rank
    for what, drawn, least, own in (
        ("images in the memory", params.memory, 0, rows),
        ("axes", axes, 1, pca.rank),
        ("dimensions of latents", params.noise.shape[1], 0, pca.dim),
    ):
        if drawn not in (least, own):
            raise ValueError(
                f"params were drawn for another checkpoint, of {drawn} {what}; this one has {own}"
            )


def rows_where(wanted: Tensor) -> Tensor:
    """The positions of what is `wanted` (n,), or all positions where asking would wait."""
    if is_read_at_once(wanted.device):
        return wanted.nonzero().flatten()
    return torch.arange(len(wanted), device=wanted.device)


def seed_of(*parts: int) -> int:
    """A different seed for each combination. Sums of the parts would coincide for some."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")  # torch's CPU generator uses 32 bits


class SharedGenerator(torch.Generator):
    """A CPU generator whose draws do not depend on the rank or on the data-loader worker."""


def own_seed(generator: torch.Generator | None = None) -> int:
    """A seed from one number of a generator (None for torch's), the rank, and the worker.

    Ranks of a distributed run and data-loader workers differ even with equal generators.
    """
    drawn = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    if isinstance(generator, SharedGenerator):
        return drawn
    worker = get_worker_info()  # torch's generator differs in every worker
    return seed_of(drawn, own_rank(), worker.seed if generator is not None and worker else 0)


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
