"""Run the methods of `Work` in processes, one a core, or in this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import CompareConfig
from .images import CompareImages, Part
from .work import Work

#: One thread each, so that cells are the same on unlike machines, and none waits for another one;
#: and memory that is freed is kept by glibc, since the kernel's new pages take a third of the time
#: of a small network.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
_LOOKS = 0.5  # seconds between two looks for Ctrl-C

Jobs = Mapping[Any, tuple[Any, ...]]  # what each is for: (Work.method, *arguments)
RunJobs = Callable[[Jobs], Iterator[tuple[Any, Any]]]
_work: Work  # of a process of the pool
_stop: Any  # a shared number: not 0 after Ctrl-C


@contextlib.contextmanager
def workers(
    images: CompareImages, config: CompareConfig, count: int, folder: Path
) -> Iterator[RunJobs]:
    """Yield a function that runs jobs, and yields what each is for with its result, as they end.

    With one process, jobs run in this one, in their order. More processes read the images from
    `folder`, which is removed at the end; what a killed comparison left there is replaced.

    Args:
        images: The images of the comparison.
        config: What is compared.
        count: The number of processes.
        folder: Where the images of several processes are kept meanwhile.

    Raises:
        ChildProcessError: A process ended.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if count == 1:
        work = Work(images, config, lambda: None)
        yield lambda jobs: _in_this_process(work, jobs)
        return
    spawned = multiprocessing.get_context("spawn")
    stop = spawned.Value("b", 0, lock=False)  # a process that is killed would keep the lock
    few = [images.classes, images.names, images.notes]
    try:
        _write(images, folder)
        with _interruptions() as interrupted:
            pool = ProcessPoolExecutor(count, spawned, _start, (folder, few, config, stop))
            with pool:
                try:
                    with _inherited():
                        # A job starts a process.
                        for started in [pool.submit(int) for _ in range(count)]:
                            started.result()
                    yield lambda jobs: _in_pool(pool, jobs, interrupted)
                finally:  # also after Ctrl-C: what runs ends with its next step
                    stop.value = 1
                    pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process of the comparison ended; if memory is short, try --processes 1. A script "
            'must call compare under if __name__ == "__main__", since each process imports it'
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_this_process(work: Work, jobs: Jobs) -> Iterator[tuple[Any, Any]]:
    for purpose, (method, *arguments) in jobs.items():
        yield purpose, method(work, *arguments)


def _in_pool(
    pool: ProcessPoolExecutor, jobs: Jobs, interrupted: list[int]
) -> Iterator[tuple[Any, Any]]:
    """Run jobs in the pool's processes, in their order."""
    running = {}
    for purpose, (method, *arguments) in jobs.items():
        running[pool.submit(_run, method.__name__, arguments)] = purpose
    while running:
        ended = wait(running, _LOOKS, FIRST_COMPLETED).done
        if interrupted:
            raise KeyboardInterrupt
        for future in ended:
            yield running.pop(future), future.result()


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Collect Ctrl-C in a list during a block.

    The pool's threads share locks with this one. An exception while this thread holds one leaves it
    locked, and the pool never ends.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which signals are for
        yield signals
        return
    handler = signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, handler)
    if signals:  # after the last job
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """Set what new processes inherit: the environment, and that Ctrl-C is not for them."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | before | {"OMP_NUM_THREADS": "1"})
    if sys.platform != "win32":
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _write(images: CompareImages, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("pool", "test"):
        for kind, array in getattr(images, name)._asdict().items():
            np.save(folder / f"{name}-{kind}.npy", array.numpy())


def _read(folder: Path, name: str) -> Part:
    arrays = []
    for kind in Part._fields:
        # Copy-on-write memory is shared by all processes, and torch takes no read-only arrays.
        stored = np.load(folder / f"{name}-{kind}.npy", mmap_mode="c")
        arrays.append(torch.from_numpy(stored))
    return Part(*arrays)


def _start(folder: Path, few: Any, config: CompareConfig, stop: Any) -> None:
    """Prepare a process of the pool."""
    global _work, _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    classes, names, notes = few
    images = CompareImages(classes, _read(folder, "pool"), _read(folder, "test"), names, notes)
    _work = Work(images, config, _check_running)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_process([parent.sentinel])
    os._exit(1)


def _check_running() -> None:
    if _stop.value:
        raise InterruptedError("the comparison was interrupted")


def _run(method: str, arguments: list[Any]) -> Any:
    _check_running()
    return getattr(_work, method)(*arguments)
