"""Seeds that differ between ranks, workers and parts of a job."""

from __future__ import annotations

import hashlib

import torch
from torch.utils.data import get_worker_info

from .ranks import own_rank


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
