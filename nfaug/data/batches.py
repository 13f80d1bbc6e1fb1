"""Batches of labelled images: from memory where they fit, through worker processes elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

__all__ = ["Batches", "LoaderBatches", "MemoryBatches", "open_batches", "progress_bar"]


class Batches(Protocol):
    """uint8 images and labels, in any order that is asked for."""

    labels: Tensor

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) and labels (B,) at the indices `order`, batch by batch."""

    def subset(self, rows: Tensor) -> Batches:
        """The same for some rows, which become 0, 1, ..."""


class MemoryBatches:
    """All images decoded once."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in order.split(batch_size):
            if len(indices):  # an empty tensor splits into one empty batch
                yield self.images[indices], self.labels[indices]

    def subset(self, rows: Tensor) -> MemoryBatches:
        return MemoryBatches(self.images[rows], self.labels[rows])


class LoaderBatches:
    """Images decoded when they are needed, by `workers` processes."""

    def __init__(
        self, dataset: Dataset[Any], labels: Tensor, workers: int, rows: Tensor | None = None
    ) -> None:
        self.dataset = dataset
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.all_labels = labels
        self.labels = labels[self.rows]
        self.workers = workers
        # Its own: the loader would otherwise draw its workers' seeds from the global generator.
        # Kept from one pass to the next, so that random transforms differ between them.
        self.generator = torch.Generator().manual_seed(0)

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            _Told(self.dataset),
            batch_size=batch_size,
            sampler=self.rows[order].tolist(),
            num_workers=self.workers,
            generator=self.generator,
            collate_fn=_collate,
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def subset(self, rows: Tensor) -> LoaderBatches:
        return LoaderBatches(self.dataset, self.all_labels, self.workers, self.rows[rows])


class _Told(Dataset[Any]):
    """The items of a data set, or in their place what went wrong.

    The loader would wrap an error of a worker in the worker's traceback, and in another message.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except (OSError, ValueError) as error:
            return error


def _collate(items: list[Any]) -> Any:
    failed = [item for item in items if isinstance(item, Exception)]
    return failed[0] if failed else default_collate(items)


def open_batches(
    dataset: Any, *, memory_gib: float = 4.0, workers: int = 2, progress: bool = False
) -> Batches:
    """Batches of a `LabelledImages` data set, kept in memory up to `memory_gib`."""
    from .images import to_tensors  # the readers belong to the training room

    size = len(dataset) * dataset.channels * math.prod(dataset.image_size)
    if size <= memory_gib * 2**30:
        return MemoryBatches(*to_tensors(dataset, progress=progress))
    return LoaderBatches(dataset, dataset.targets, workers)


def progress_bar(total: int, title: str, unit: str, *, shown: bool) -> tqdm:
    """A bar on standard error: on terminals, and after a second. One below another vanishes."""
    hidden = None if shown else True  # None: where standard error is no terminal
    return tqdm(total=total, desc=title, unit=unit, disable=hidden, delay=1, leave=None)
