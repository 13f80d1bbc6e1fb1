"""Data-parallel training over one process, or those of `torchrun` or `accelerate launch`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nfaug.data.batches import Batches
from nfaug.flows.flow import Flow
from nfaug.io.device import float64_device, pick_device
from nfaug.io.ranks import TIMEOUT, Ranks, group_rank, launched

__all__ = ["Processes", "Shard", "draw_noise", "shared_batches"]


class Processes(Ranks):
    """The group of processes that share a run, and this process's place in it.

    Every process draws the same random numbers for the whole batch and computes on its own rows,
    so the result does not depend on how many processes there are.

    Args:
        device: As in `TrainConfig.device`. Of several processes each takes the GPU of its local
            rank, or the CPU if `device` is the CPU or there is no GPU.

    Attributes:
        count: Number of processes.
        rank: Index of this process, from 0.
        device: Device of this process.

    Raises:
        ValueError: There is no such device.
    """

    def __init__(self, device: str) -> None:
        several = launched() > 1
        self.device: torch.device = pick_device("auto" if several and device != "cpu" else device)
        self._starts_group: bool = several and group_rank() is None
        if not several:
            super().__init__()
            return
        distributed = torch.distributed
        backend = "gloo"
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            backend = "cpu:gloo,cuda:nccl"
        if self._starts_group:
            distributed.init_process_group(backend, timeout=TIMEOUT)
        super().__init__(distributed.get_world_size(), distributed.get_rank())

    @property
    def float64(self) -> torch.device:
        """The device for float64 sums: the CPU on Apple GPUs, which have no float64."""
        return float64_device(self.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, wrapped to average gradients if there are several processes."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(module, device_ids=devices)
        # A flow's buffers are constants, and would be sent before every forward pass. The argument
        # of this name is deprecated (torch 2.13), and that in its place is unknown to older ones.
        wrapped.broadcast_buffers = False
        return wrapped

    def wait(self) -> None:
        """Block until every process has called this."""
        if self.count > 1:
            self.sum(torch.zeros(1, device=self.device)).item()

    def close(self) -> None:
        """Leave the process group, if this object has joined it."""
        if self._starts_group:
            torch.distributed.destroy_process_group()


class Shard(NamedTuple):
    """One process's rows of a batch.

    Attributes:
        images: uint8 images, or latents.
        labels: Labels (B,).
        part: The slice of the batch that these rows are.
        total: Number of images in the whole batch.
        weight: 0 if the rows repeat another process's and must not count, else 1.
    """

    images: Tensor
    labels: Tensor
    part: slice
    total: int
    weight: float


def draw_noise(flow: Flow, count: int, generator: torch.Generator, gaussian: float = 0.0) -> Tensor:
    """Draw dequantisation noise (count, C, H, W) on the generator's device.

    Uniform on [0, 1) in grey levels, plus Gaussian noise of standard deviation `gaussian`.
    """
    shape = (count, *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    if gaussian:
        normal = torch.randn(shape, generator=generator, device=generator.device)
        noise.add_(normal, alpha=gaussian)
    return noise


def shared_batches(
    data: Batches, order: Tensor, batch_size: int, ranks: Ranks | None = None
) -> Iterator[Shard]:
    """Split every batch over the processes and yield this one's shards.

    Sizes differ by at most one. If a batch has fewer rows than there are processes, the others get
    its first row with `weight` 0: with gradients, every process must take part.
    """
    if not len(order):
        return
    ranks = ranks or Ranks()
    batches = order.split(batch_size)
    shards: list[Tensor] = []
    for batch in batches:
        shard = batch.tensor_split(ranks.count)[ranks.rank]
        shards.append(shard if len(shard) else batch[:1])
    largest = max(len(shard) for shard in shards)
    loaded = data.iterate(torch.cat(shards), largest)
    for batch, (images, labels) in zip(batches, loaded, strict=True):
        parts = batch.tensor_split(ranks.count)
        if len(parts[ranks.rank]):
            start = sum(len(part) for part in parts[: ranks.rank])
            weight = 1.0
        else:
            start = 0
            weight = 0.0
        rows = slice(start, start + len(images))
        yield Shard(images, labels, rows, len(batch), weight)
