"""Data-parallel training: the rows of a batch and the gradients of several processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nfaug.data.batches import LabelledBatches, batches
from nfaug.flows.flow import Flow
from nfaug.run.ranks import Ranks


def averaging(module: nn.Module, ranks: Ranks) -> nn.Module:
    """The module, wrapped to average gradients if there are several processes."""
    if ranks.count == 1:
        return module
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    wrapped = DistributedDataParallel(module, device_ids=devices)
    # A flow's buffers are constants, and would be sent before every forward pass. The argument
    # of this name is deprecated (torch 2.13), and that in its place is unknown to older ones.
    wrapped.broadcast_buffers = False
    return wrapped


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

    Uniform on [0, 1), plus Gaussian noise of standard deviation `gaussian`, both in gray levels; on
    latents, in units of `latent_noise`.
    """
    shape = (count, *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    if gaussian:
        normal = torch.randn(shape, generator=generator, device=generator.device)
        noise.add_(normal, alpha=gaussian)
    return noise


def shared_batches(
    data: LabelledBatches, order: Tensor, batch_size: int, ranks: Ranks | None = None
) -> Iterator[Shard]:
    """Split every batch over the processes and yield this one's shards.

    Sizes differ by at most one. If a batch has fewer rows than there are processes, the others get
    its first row with `weight` 0: with gradients, every process must take part.
    """
    if not len(order):
        return
    ranks = ranks or Ranks()
    whole = order.split(batch_size)
    shards: list[Tensor] = []
    for batch in whole:
        shard = batch.tensor_split(ranks.count)[ranks.rank]
        shards.append(shard if len(shard) else batch[:1])
    for batch, (images, labels) in zip(whole, batches(data, shards), strict=True):
        parts = batch.tensor_split(ranks.count)
        if len(parts[ranks.rank]):
            start = sum(len(part) for part in parts[: ranks.rank])
            weight = 1.0
        else:
            start = 0
            weight = 0.0
        rows = slice(start, start + len(images))
        yield Shard(images, labels, rows, len(batch), weight)
