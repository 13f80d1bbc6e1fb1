"""Batches of labelled images, from memory or through worker processes."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate, get_worker_info

from .images import LabelledImages, progress_bar, to_tensors

__all__ = [
    "Batches",
    "ErrorsAsItems",
    "LoaderBatches",
    "MemoryBatches",
    "open_batches",
    "progress_bar",
]


class Batches(Protocol):
    """uint8 images and labels, in any order."""

    labels: Tensor

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) and labels (B,) at the indices `order`."""

    def subset(self, rows: Tensor) -> Batches:
        """The given rows, renumbered 0, 1, ..."""


class MemoryBatches:
    """Images that are all in memory."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            yield self.images[indices], self.labels[indices]

    def subset(self, rows: Tensor) -> MemoryBatches:
        return MemoryBatches(self.images[rows], self.labels[rows])


class LoaderBatches:
    """Images that `workers` processes decode on demand.

    Args:
        dataset: Images and labels.
        labels: The labels, int64 (N,).
        workers: Number of processes.
        seed: Seed of the random transforms of the data set, if it has any.
    """

    def __init__(self, dataset: Dataset[Any], labels: Tensor, workers: int, seed: int = 0) -> None:
        self.dataset, self.labels, self.workers, self.seed = dataset, labels, workers, seed
        # Without a generator the loader draws its workers' seeds from torch's global one. This one
        # advances from pass to pass, so that random transforms differ.
        self.generator = torch.Generator().manual_seed(seed)

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            ErrorsAsItems(self.dataset),
            batch_size=batch_size,
            sampler=order.tolist(),
            num_workers=self.workers,
            generator=self.generator,
            collate_fn=_collate,
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def subset(self, rows: Tensor) -> LoaderBatches:
        part = Subset(self.dataset, rows.tolist())
        return LoaderBatches(part, self.labels[rows], self.workers, self.seed)


class ErrorsAsItems(Dataset[Any]):
    """The items of a data set, with exceptions returned in place of items.

    An exception that a worker raises would reach the caller with the worker's traceback as its
    message. One that cannot be pickled travels as its message alone.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except (OSError, ValueError) as error:
            return error if get_worker_info() is None else _travelling(error)


def _travelling(error: OSError | ValueError) -> Exception:
    """The error, or one of the same kind with its message, if another process cannot have it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its own methods raise
        return OSError(str(error)) if isinstance(error, OSError) else ValueError(str(error))
    return error


def _collate(items: list[Any]) -> Any:
    failed = [item for item in items if isinstance(item, Exception)]
    return failed[0] if failed else default_collate(items)


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
