"""The processes that share a job: those of `torchrun` or `accelerate launch`, or one alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

__all__ = ["TIMEOUT", "Ranks", "group_rank", "joined", "launched", "own_rank"]

TIMEOUT = timedelta(hours=2)  # the others wait for the slowest process


class Ranks:
    """A group of `count` processes, and this process's place `rank` in it, from 0."""

    def __init__(self, count: int = 1, rank: int = 0) -> None:
        self.count: int = count
        self.rank: int = rank

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place. A collective: every process must call it."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the main process's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

    def collect(self, own: dict[int, Any], total: int) -> list[Any]:
        """All items 0..total-1 on every process; `own` holds items rank, rank + count, and so on.

        One item of each process is sent at a time, which bounds the memory. `own` is emptied.
        """
        items: list[Any] = []
        for start in range(0, total, self.count):
            item = own.pop(start + self.rank, None)
            gathered = [item] * self.count
            if self.count > 1:
                torch.distributed.all_gather_object(gathered, item)
            items += gathered
        return items[:total]


def launched() -> int:
    """The number of processes that `torchrun` or `accelerate launch` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def group_rank() -> int | None:
    """The rank of this process in the group that runs; None without a group."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return None


def own_rank() -> int:
    """This process's index in the group that runs, or else the one that a launcher set; 0 alone."""
    rank = group_rank()
    if rank is None:
        rank = int(os.environ.get("RANK") or 0)
    return rank


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that the launcher started, joined in a group while the block runs.

    A group that exists is used and left as it is.

    Raises:
        ValueError: It has no backend for the CPU, where results are summed.
    """
    distributed = torch.distributed
    exists = group_rank() is not None
    several = exists and distributed.get_world_size() > 1
    if several and "cpu" not in distributed.get_backend_config():
        raise ValueError("the group has no CPU: call init_process_group('cpu:gloo,cuda:nccl')")
    starts_group = not exists and launched() > 1
    if starts_group:
        distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        rank = group_rank()
        yield Ranks() if rank is None else Ranks(distributed.get_world_size(), rank)
    finally:
        if starts_group:
            distributed.destroy_process_group()
