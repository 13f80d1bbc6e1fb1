"""The processes that share a job: those of `torchrun` or `accelerate launch`, or one alone."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from .device import pick_device

T = TypeVar("T")

_TIMEOUT = timedelta(hours=2)  # the others wait for the slowest process
_FREED = 0.5  # seconds in which gloo's threads free what they have summed
_groups = itertools.count()


class Ranks:
    """A group of `count` processes, this process's place `rank` in it, from 0, and its device."""

    def __init__(self, count: int = 1, rank: int = 0, device: torch.device | str = "cpu") -> None:
        self.count: int = count
        self.rank: int = rank
        self.device: torch.device = torch.device(device)

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

    def wait(self) -> None:
        """Block until every process has called this."""
        self.agree(None)

    def agree(self, error: Exception | None) -> None:
        """Raise on every process the first error that one of them passes; else only wait for all.

        A process that raised on its own would leave the others to wait until they time out.
        """
        for met in self.everyone(error):
            if met is not None:
                raise met

    def everyone(self, item: T) -> list[T]:
        """The items that all processes pass, in the order of their ranks. For small items."""
        items = [item] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(items, item)
        return items

    def collect(self, own: Callable[[int], T], total: int, *, everywhere: bool) -> Iterator[T]:
        """Yield the items 0..total-1, of which this process has the items rank, rank + count, ...

        One item of each process is sent at a time, which bounds the memory.

        Args:
            own: Gives each of this process's items, by its position.
            total: The number of items of all processes.
            everywhere: Whether every process gets the items. If not, they are sent to the main one,
                and nothing is yielded on the others, which must run the iterator to its end.
        """
        for start in range(0, total, self.count):
            position = start + self.rank
            item = own(position) if position < total else None
            gathered = [item] * self.count
            if self.count > 1 and everywhere:
                torch.distributed.all_gather_object(gathered, item)
            elif self.count > 1:
                torch.distributed.gather_object(item, gathered if self.main else None)
            if everywhere or self.main:
                yield from gathered[: total - start]  # type: ignore[misc]


def own_cores(processes: int = 1) -> int:
    """The processor cores for each of the processes that share this machine, at least 1.

    `processes` is their number, unless a launcher says that it started more on this machine.
    """
    processes = max(processes, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    if hasattr(os, "sched_getaffinity"):  # a container or a scheduler may allow some cores only
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // processes)


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
def joined(device: str = "cpu") -> Iterator[Ranks]:
    """The processes that the launcher started, joined in a group while the block runs.

    A group that exists is used and left as it is.

    Args:
        device: What to compute on, as in `pick_device`. Of several processes each takes the GPU of
            its local rank, or the CPU if that is asked for or there is no GPU.

    Raises:
        ValueError: There is no such device, or a group that exists has no backend for the CPU,
            where results are summed.
    """
    distributed = torch.distributed
    exists = group_rank() is not None
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if exists:
        count = distributed.get_world_size()
    several = count > 1
    own_device = pick_device("auto" if several and device != "cpu" else device)
    on_cpu = own_device.type == "cpu"
    if exists and several and on_cpu and "cpu" not in distributed.get_backend_config():
        raise ValueError("the group has no CPU: call init_process_group('cpu:gloo,cuda:nccl')")
    starts_group = several and not exists
    if several and own_device.type == "cuda":
        torch.cuda.set_device(own_device)
    if starts_group:
        _start_group("cpu:gloo,cuda:nccl" if own_device.type == "cuda" else "gloo")
    try:
        rank = group_rank()
        yield Ranks(count, rank or 0, own_device)
    except BaseException:
        # The traceback may keep a DistributedDataParallel, and so the group, alive. When it is
        # freed, torch joins gloo's threads while it holds the GIL. A thread that still has to free
        # tensors of the last sum would wait for the GIL for ever, so it gets the GIL here.
        if starts_group:
            time.sleep(_FREED)
        raise
    finally:
        if starts_group:
            distributed.destroy_process_group()


def _start_group(backend: str) -> None:
    """Start the group of the launcher's processes.

    Its keys in the launcher's store are its own: `torchrun` keeps the store, and a later group
    would read those of an earlier one, and wait for ever.
    """
    store, rank, count = _launcher_store()
    store = PrefixStore(f"nfaug-{next(_groups)}", store)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=count, timeout=_TIMEOUT
    )


@functools.cache
def _launcher_store() -> tuple[Any, int, int]:
    """The store that the launcher's processes share, this one's rank, and their number.

    It is kept: without `torchrun` the first process serves it, and another could reach the old
    store while the first one opens the next.
    """
    store, rank, count = next(rendezvous("env://", timeout=_TIMEOUT))
    return store, rank, count
