"""Open files that other people made: regular ones only, within limits."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from .strict_json import parse_json

__all__ = ["LARGEST_JSON", "open_regular", "read_json"]

LARGEST_JSON = 2**26  # bytes


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading. Links are followed.

    A pipe or a device is an error at once; a plain `open` would wait for a writer, or never end.

    Raises:
        ValueError: If this is no regular file, or a larger one.
        OSError: If it cannot be opened.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path} has {status.st_size} bytes; at most {most} are read")
    return open(path, "rb")


def read_json(path: str | Path, most: int = LARGEST_JSON) -> Any:
    """Read a JSON file of at most `most` bytes and 32 levels; see `strict_json.parse_json`.

    Raises:
        ValueError: If it is no such file, or not strict JSON.
        OSError: If it cannot be opened.
    """
    with open_regular(path, most) as file:
        return parse_json(file.read(most))
