"""Batches of labelled images, from memory or through worker processes."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .images import LabelledImages, progress_bar, to_tensors

__all__ = ["Batches", "LoaderBatches", "MemoryBatches", "open_batches", "progress_bar"]


class Batches(Protocol):
    """uint8 images and labels, in any order."""

    labels: Tensor

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) and labels (B,) at the indices `order`."""


class MemoryBatches:
    """Images that are all in memory."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images: Tensor = images
        self.labels: Tensor = labels

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        if len(order) == 0:  # `split` would give one empty batch
            return
        for indices in order.split(batch_size):
            yield self.images[indices], self.labels[indices]


class LoaderBatches:
    """Images that `workers` processes decode on demand.

    Args:
        dataset: Images and labels.
        labels: The labels, int64 (N,).
        workers: Number of processes.
        seed: Seed of the random transforms of the data set, if it has any.
    """

    def __init__(self, dataset: Dataset[Any], labels: Tensor, workers: int, seed: int = 0) -> None:
        self.dataset: Dataset[Any] = dataset
        self.labels: Tensor = labels
        self.workers: int = workers
        # Without a generator the loader draws its workers' seeds from torch's global one. This one
        # advances from pass to pass, so that random transforms differ.
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self.dataset,
            batch_size=batch_size,
            sampler=order.tolist(),
            num_workers=self.workers,
            generator=self.generator,
            worker_init_fn=_ignore_interrupts,
        )
        try:
            yield from loader
        except (OSError, ValueError) as error:
            text = str(error).strip()
            if "Traceback" not in text:
                raise
            # The message of a worker's error is a traceback, whose last line is "Type: message".
            _, _, message = text.splitlines()[-1].partition(": ")
            # The frames of this process in the error's traceback would keep the workers alive.
            error.__traceback__ = None
            raise type(error)(message) from error


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the main process, which saves its state and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def open_batches(
    dataset: LabelledImages,
    *,
    memory_gib: float = 4.0,
    workers: int = 2,
    progress: bool = False,
    seed: int = 0,
) -> Batches:
    """Batches of a data set, from memory if its images take at most `memory_gib`."""
    size = len(dataset) * dataset.channels * math.prod(dataset.image_size)
    if size <= memory_gib * 2**30:
        return MemoryBatches(*to_tensors(dataset, progress=progress))
    return LoaderBatches(dataset, dataset.targets, workers, seed)
