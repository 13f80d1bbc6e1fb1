"""Passes over images that processes share, with the noise that a single one would draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batches import Batches
from ...flows.flow import Flow
from .processes import Processes

__all__ = ["Share", "draw_noise", "shared_batches", "whole_batches"]


class Share(NamedTuple):
    """A process's part of a batch of `total` images: the rows `part` of it.

    `weight` is 0 where they are another process's too, and must not count twice.
    """

    images: Tensor
    labels: Tensor
    part: slice
    total: int
    weight: float


def draw_noise(flow: Flow, count: int, generator: torch.Generator, gaussian: float = 0.0) -> Tensor:
    """Dequantisation noise of so many images, on the generator's device.

    Uniform in [0, 1), plus gaussian noise of that standard deviation in grey levels.
    """
    shape = (count, *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    if gaussian:
        normal = torch.randn(shape, generator=generator, device=generator.device)
        noise.add_(normal, alpha=gaussian)
    return noise


def whole_batches(
    flow: Flow,
    data: Batches,
    order: Tensor,
    batch_size: int,
    generator: torch.Generator,
    processes: Processes | None = None,
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
    """Batches dealt out in turn: what a process encodes does not depend on how many there are.

    Noise of each batch, and its images and labels, or None where it is another process's.
    """
    batches = [rows for rows in order.split(batch_size) if len(rows)]
    mine = [processes is None or processes.mine(number) for number in range(len(batches))]
    own = [rows for rows, is_mine in zip(batches, mine, strict=True) if is_mine]
    found = data.iterate(torch.cat([order[:0], *own]), batch_size)
    for rows, is_mine in zip(batches, mine, strict=True):
        noise = draw_noise(flow, len(rows), generator)
        yield noise, next(found) if is_mine else None


def shared_batches(
    data: Batches, order: Tensor, batch_size: int, processes: Processes
) -> Iterator[Share]:
    """Batches of which every process gets a part."""
    batches = [rows for rows in order.split(batch_size) if len(rows)]
    parts = [processes.part(rows) for rows in batches]
    own = [rows[part] for rows, part in zip(batches, parts, strict=True)]
    most = max((len(rows) for rows in own), default=1)
    found = data.iterate(torch.cat([order[:0], *own]), most)
    for rows, part, (images, labels) in zip(batches, parts, found, strict=True):
        yield Share(images, labels, part, len(rows), processes.weight(rows))
