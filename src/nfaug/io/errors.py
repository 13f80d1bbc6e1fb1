"""FileError: what a file holds is not what it should be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .text import printable


class FileError(ValueError):
    """A file is missing, damaged or of another form; the message names it."""


@contextlib.contextmanager
def reading(file: Path | str, *, longest: int = 1000) -> Iterator[None]:
    """Turn an error about the content of `file` into a FileError that names the file."""
    try:
        yield
    except FileError:
        raise
    # torch raises RuntimeError for shapes that do not fit.
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise FileError(f"{file}: {printable(error, longest=longest)}") from None
