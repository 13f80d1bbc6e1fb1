"""All images decoded, or batches of them: by threads, by worker processes, or from memory."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..run.ranks import Ranks, own_cores
from ..run.shared import shared_tensor
from .images import Batch, Images, run_over

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)

_AHEAD = 2  # batches that a thread decodes while one is used


class Batched(Protocol[B_co]):
    """What gives the batch of any rows: `Images`, `Decoded`, `Streamed`.

    Attributes:
        threads: Whether a thread may make the next batch while the last one is used.
    """

    @property
    def threads(self) -> bool: ...

    def batch(self, rows: Tensor) -> B_co:
        """The batch of these rows."""


class LabelledBatches(Batched[Batch], Protocol):
    """What gives batches of images and labels. `targets` has the label of each row, int64 (N,)."""

    targets: Tensor


class Decoded:
    """Images (N, C, H, W), or latents of them, that are all in memory, and their labels."""

    threads = False

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images: Tensor = images
        self.targets: Tensor = targets

    def batch(self, rows: Tensor) -> Batch:
        """The images and the labels of these rows."""
        return Batch(self.images[rows], self.targets[rows])


class Streamed(Generic[B]):
    """Images whose batches are made by worker processes.

    Args:
        data: The images.
        targets: Their labels, int64 (N,).
        workers: The number of processes, at least one.
        seed: Seed of the random transforms of the dataset, if it has any.
    """

    threads = False

    def __init__(self, data: Batched[B], targets: Tensor, workers: int, seed: int = 0) -> None:
        self.data: Batched[B] = data
        self.targets: Tensor = targets
        self.workers: int = workers
        # Without a generator the loader draws its workers' seeds from torch's global one. This one
        # advances from pass to pass, so that random transforms differ.
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)

    def batch(self, rows: Tensor) -> B:
        """The batch of these rows, made in this process."""
        return self.data.batch(rows)


def decode(images: Images, *, ranks: Ranks | None = None, progress: bool = True) -> Tensor:
    """All images, decoded by several threads: uint8 (N, C, H, W).

    Args:
        images: The images, of one size.
        ranks: Processes that all call this. Those of one machine decode a part of the images each,
            into memory that they share.
        progress: Whether to show a bar.

    Raises:
        ValueError: The images differ in size, or one cannot be decoded.
    """
    ranks = ranks or Ranks()
    shape = (len(images), images.channels, *images.image_size)
    tensor, rows = shared_tensor(shape, torch.uint8, ranks)
    error: Exception | None = None
    try:
        decoded = run_over(
            images.image, rows, "reading images", threads=images.threads, progress=progress
        )
        for index, image in zip(rows, decoded, strict=True):
            tensor[index] = image
    except (OSError, ValueError) as met:
        if ranks.count == 1:
            raise
        error = met
    ranks.agree(error)
    return tensor


def batches(data: Batched[B], parts: Iterable[Tensor]) -> Generator[B]:
    """Yield the batch of each part, in order; the next ones are made while one is used.

    Args:
        data: Gives the batch of any rows.
        parts: The rows of each batch, as of `order.split(batch_size)`. An empty one is left out.
    """
    parts = [rows for rows in parts if len(rows)]
    if isinstance(data, Streamed):
        yield from _by_workers(data, parts)
    elif data.threads:
        yield from _by_a_thread(data, parts)
    else:
        yield from map(data.batch, parts)


def _by_a_thread(data: Batched[B], parts: list[Tensor]) -> Iterator[B]:
    """Make batches in a thread, up to `_AHEAD` before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        coming: deque[Future[B]] = deque()
        try:
            for number in range(len(parts) + _AHEAD):
                if number < len(parts):
                    coming.append(thread.submit(data.batch, parts[number]))
                if number >= _AHEAD:
                    yield coming.popleft().result()
        finally:  # also after Ctrl-C: no batch is begun any more
            thread.shutdown(cancel_futures=True)


class _Parts(Dataset[Any]):
    """The batches of parts, as the items of a dataset."""

    def __init__(self, data: Batched[Any], parts: list[Tensor]) -> None:
        self.data: Batched[Any] = data
        self.parts: list[Tensor] = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Any:
        return self.data.batch(self.parts[index])


def _by_workers(streamed: Streamed[B], parts: list[Tensor]) -> Iterator[B]:
    """Make batches in worker processes."""
    loader = DataLoader(
        _Parts(streamed.data, parts),
        batch_size=None,  # items are batches
        num_workers=min(streamed.workers, len(parts)),
        generator=streamed.generator,
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


def in_memory(
    images: Images,
    *,
    memory_gib: float = 4.0,
    workers: int | None = None,
    progress: bool = False,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> LabelledBatches:
    """The images, decoded if they take at most `memory_gib`; larger ones are read in each pass.

    Args:
        images: The images, of one size.
        memory_gib: The largest size in memory.
        workers: Processes that decode images that are not in memory; None for as many as this
            process has cores.
        progress: Whether to show a bar while images are read into memory.
        seed: Seed of the random transforms of the dataset, if it has any.
        ranks: As in `decode`.
    """
    if len(images) * images.channels * math.prod(images.image_size) <= memory_gib * 2**30:
        return Decoded(decode(images, ranks=ranks, progress=progress), images.targets)
    if workers is None:
        workers = default_workers()
    return Streamed(images, images.targets, workers, seed) if workers else images


def default_workers(processes: int = 1) -> int:
    """The worker processes for each of the processes of a machine (see `own_cores`): one a core.

    0 on a single core, where they could only take turns: the process itself decodes.
    """
    cores = own_cores(processes)
    return cores if cores > 1 else 0
