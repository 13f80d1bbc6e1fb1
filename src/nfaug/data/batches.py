"""Batches of labelled images, from memory or through worker processes."""

from __future__ import annotations

import itertools
import math
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..run.ranks import Ranks, own_cores
from ..run.shared import shared_tensor
from .images import LabelledImages, to_tensors


class Batches(Protocol):
    """uint8 images and labels, in any order."""

    labels: Tensor

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) and labels (B,) at the indices `order`."""

    def passes(
        self, orders: Sequence[Tensor], batch_size: int
    ) -> Generator[Iterator[tuple[Tensor, Tensor]]]:
        """Yield what `iterate` does for each of several orders; each must be read to its end."""


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

    def passes(
        self, orders: Sequence[Tensor], batch_size: int
    ) -> Generator[Iterator[tuple[Tensor, Tensor]]]:
        for order in orders:
            yield self.iterate(order, batch_size)


class PassBatches:
    """Images that threads decode, all of a pass together; the next while the last are used."""

    def __init__(self, images: LabelledImages) -> None:
        self.images: LabelledImages = images
        self.labels: Tensor = images.targets

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return _split(self._decoded(order), batch_size)

    def passes(
        self, orders: Sequence[Tensor], batch_size: int
    ) -> Generator[Iterator[tuple[Tensor, Tensor]]]:
        if not self.images.reader.threads:  # such as a file that only one thread may use
            for order in orders:
                yield self.iterate(order, batch_size)
            return
        stop = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            try:
                coming: deque[Future[tuple[Tensor, Tensor]]] = deque()
                for number in range(len(orders) + 1):
                    if number < len(orders):
                        coming.append(thread.submit(self._decoded, orders[number], stop))
                    if number > 0:
                        decoded = coming.popleft().result()
                        yield _split(decoded, batch_size)
                        del decoded  # before the pass after the next is decoded
            finally:  # also after Ctrl-C: a pass may take minutes
                stop.set()

    def _decoded(self, order: Tensor, stop: threading.Event | None = None) -> tuple[Tensor, Tensor]:
        return to_tensors(self.images.subset(order), progress=False, stop=stop)


def _split(decoded: tuple[Tensor, Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in batches, without copies."""
    images, labels = decoded
    if len(labels) == 0:  # `split` would give one empty batch
        return iter(())
    return zip(images.split(batch_size), labels.split(batch_size), strict=True)


class LoaderBatches:
    """Images that `workers` processes decode on demand.

    Args:
        dataset: Images and labels.
        labels: The labels, int64 (N,).
        workers: Number of processes.
        seed: Seed of the random transforms of the dataset, if it has any.
    """

    def __init__(self, dataset: Dataset[Any], labels: Tensor, workers: int, seed: int = 0) -> None:
        self.dataset: Dataset[Any] = dataset
        self.labels: Tensor = labels
        self.workers: int = workers
        # Without a generator the loader draws its workers' seeds from torch's global one. This one
        # advances from pass to pass, so that random transforms differ.
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batches in self.passes([order], batch_size):
            yield from batches

    def passes(
        self, orders: Sequence[Tensor], batch_size: int
    ) -> Generator[Iterator[tuple[Tensor, Tensor]]]:
        batches: list[list[int]] = []
        counts: list[int] = []
        for order in orders:
            parts = order.split(batch_size) if len(order) else ()
            batches += [part.tolist() for part in parts]
            counts.append(len(parts))
        loaded = self._load(batches)  # by the same workers for all orders
        for count in counts:
            yield itertools.islice(loaded, count)

    def _load(self, batches: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images and labels of each batch of indices."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=min(self.workers, len(batches)),
            generator=self.generator,
            worker_init_fn=_ignore_signals,
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


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def open_batches(
    dataset: LabelledImages,
    *,
    memory_gib: float = 4.0,
    workers: int | None = None,
    progress: bool = False,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> Batches:
    """Batches of a dataset, from memory if its images take at most `memory_gib`.

    Args:
        dataset: The images.
        memory_gib: The largest size in memory.
        workers: Processes that decode images that are not in memory; None for as many as this
            process has cores.
        progress: Whether to show a bar while images are read into memory.
        seed: Seed of the random transforms of the dataset, if it has any.
        ranks: Processes that all call this. Those of one machine read a part of the images each,
            into memory that they share.
    """
    ranks = ranks or Ranks()
    shape = (len(dataset), dataset.channels, *dataset.image_size)
    if math.prod(shape) > memory_gib * 2**30:
        if workers is None:
            workers = default_workers()
        return LoaderBatches(dataset, dataset.targets, workers, seed)
    images, rows = shared_tensor(shape, torch.uint8, ranks)
    error: Exception | None = None
    try:
        own = dataset.subset(torch.arange(rows.start, rows.stop))
        to_tensors(own, progress=progress, out=images[rows.start : rows.stop])
    except (OSError, ValueError) as met:
        if ranks.count == 1:
            raise
        error = met
    ranks.agree(error)
    return MemoryBatches(images, dataset.targets)


def default_workers(processes: int = 1) -> int:
    """The worker processes for each of the processes of a machine (see `own_cores`): one a core.

    0 on a single core, where they could only take turns: the process itself decodes.
    """
    cores = own_cores(processes)
    return cores if cores > 1 else 0
