"""One writer for each output: a lock that other processes see and that ends with its process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..run.ranks import group_rank
from .text import printable


class OutputInUseError(OSError):
    """Another process writes to the same output; the message names the process and its host."""


@contextlib.contextmanager
def lock_output(path: Path, *, every_rank: bool = False) -> Iterator[None]:
    """Hold the lock of an output, the file `.NAME.lock` beside it, while the block runs.

    The operating system drops the lock when its process ends, however it ends. A thread may lock an
    output that it holds again. In a process group of torch only the main process locks, unless
    `every_rank` is set because each has its own output.

    Raises:
        OutputInUseError: Another process or thread holds the lock.
        OSError: The lock file cannot be created.
    """
    if not every_rank and group_rank():
        yield
        return
    path = path.expanduser().resolve()
    file = path.parent / f".{path.name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()  # where no file can be made, filelock waits for another process
    lock = FileLock(file, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise OutputInUseError(
            f"{path} is in use by {_holder(file)}; wait until it ends, or choose another output"
        ) from None
    try:
        # The disk may be full, and Windows locks the content, too.
        with contextlib.suppress(OSError):
            # On file systems without locks filelock has written its own content.
            if file.stat().st_size == 0:
                file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # Windows does not remove open files
                file.unlink()  # filelock discards a lock on a removed file, so there is no race
        lock.release()


def _holder(file: Path) -> str:
    """What the holder of a lock wrote into the file."""
    with contextlib.suppress(OSError):  # Windows locks the content too
        return printable(file.read_text(errors="replace"), longest=200)
    return "another process"
