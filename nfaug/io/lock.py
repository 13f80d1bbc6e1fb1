"""One writer for each output: a lock that other processes see and that ends with its process."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .atomic import INNER_LOCK
from .text import printable

__all__ = ["OutputInUseError", "lock_output"]

_held: set[tuple[int, int, Path]] = set()  # process, thread, path


class OutputInUseError(OSError):
    """Another process writes to the same output; the message names the process and its host."""


@contextlib.contextmanager
def lock_output(path: Path, *, every_rank: bool = False) -> Iterator[None]:
    """Hold the lock of an output folder or file while the block runs.

    The lock is the file `.NAME.lock` beside the output, where replacing a folder does not touch it,
    or `.nfaug.lock` inside a folder that is a mount point or has a read-only parent. The operating
    system drops the lock when its process ends, however it ends. On file systems without locks,
    filelock 4.2.12 and newer (Python 3.11) compare host and process instead. A thread may lock an
    output that it holds again. Under `torchrun` only the main process locks.

    Args:
        path: The folder or file to write; it need not exist.
        every_rank: Whether each process of `torchrun` locks, because each has its own output.

    Raises:
        OutputInUseError: Another process or thread holds the lock.
        OSError: The lock file cannot be created.
    """
    path = path.expanduser().resolve()
    key = (os.getpid(), threading.get_ident(), path)
    if key in _held or (not every_rank and int(os.environ.get("RANK") or 0)):
        yield
        return
    file = _lock_file(path)
    missing = [parent for parent in file.parents if not parent.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        pid, host = _holder(file)
        raise OutputInUseError(
            f"{path} is in use by process {pid} on {host}; wait until it ends, or choose another "
            "output"
        ) from None
    _held.add(key)
    try:
        if _holder(file)[0] != str(os.getpid()):  # without OS locks, filelock has written it
            with contextlib.suppress(OSError):  # a full disk; Windows locks the content too
                file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        _held.discard(key)
        with contextlib.suppress(OSError):  # Windows does not remove open files
            file.unlink()  # filelock discards a lock on a removed file, so there is no race
        lock.release()
        with contextlib.suppress(OSError):  # they hold something now
            for parent in missing:
                parent.rmdir()


def _lock_file(path: Path) -> Path:
    if path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK)):
        return path / INNER_LOCK
    return path.parent / f".{path.name}.lock"


def _holder(file: Path) -> tuple[str, str]:
    """Return process and host from a lock file, in our format or in that of `filelock`."""
    try:
        lines = file.read_text(errors="replace")[:1000].splitlines()
    except OSError:
        lines = []
    words = [line.removeprefix("pid=").removeprefix("host=") for line in lines]
    for pid, host in itertools.pairwise(words):
        if pid.isdecimal():
            return pid, printable(host)
    return "unknown", "this or another host"
