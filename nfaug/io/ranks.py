"""The processes that share a job: those of `torchrun` or `accelerate launch`, or one alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

__all__ = ["Ranks", "joined", "launched"]

_TIMEOUT = timedelta(hours=2)  # the others wait for the slowest process


class Ranks:
    """A group of processes, and this process's place in it.

    Attributes:
        count: Number of processes.
        rank: Index of this process, from 0.
    """

    def __init__(self, count: int = 1, rank: int = 0) -> None:
        self.count, self.rank = count, rank

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether this process takes item `number` in a round-robin deal."""
        return number % self.count == self.rank

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
        """All items 0..total-1 on every process, from those that each one `owns`.

        One item of each process is sent at a time, which bounds the memory.
        """
        items: list[Any] = []
        for start in range(0, total, self.count):
            sent: list[Any] = [own.pop(start + self.rank, None)]
            if self.count > 1:
                sent *= self.count
                torch.distributed.all_gather_object(sent, sent[0])
            items += sent
        return items[:total]


def launched() -> int:
    """The number of processes that `torchrun` or `accelerate launch` started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that the launcher started, joined in a group while the block runs.

    A group that exists is used and left as it is.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        yield Ranks(torch.distributed.get_world_size(), torch.distributed.get_rank())
        return
    if launched() < 2:
        yield Ranks()
        return
    torch.distributed.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(torch.distributed.get_world_size(), torch.distributed.get_rank())
    finally:
        torch.distributed.destroy_process_group()
