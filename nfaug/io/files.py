"""Open files that other people made: regular ones only, of bounded size."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_regular"]


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading. Links are followed.

    A pipe or a device is an error at once; a plain `open` would wait for a writer, or never end.

    Raises:
        ValueError: If this is no regular file, or a larger one.
        OSError: If it cannot be opened.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path} has {status.st_size} bytes; at most {most} are read")
    return path.open("rb")
