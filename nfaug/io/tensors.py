"""Read and write safetensors files; headers are checked before anything is allocated."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from .manifest import CONFIG, CheckpointError
from .text import printable

__all__ = [
    "LARGEST_HEADER",
    "MOST_TENSORS",
    "read_sizes",
    "read_tensors",
    "sha256_of",
    "write_tensors",
]

MOST_TENSORS = 20_000  # per file; the paper's flow has 1,296
LARGEST_HEADER = 2**22  # bytes, enough for 20,000 tensors
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**60
_TYPES = ("F64", "F32", "F16", "BF16", "I64")


def read_sizes(file: Path) -> list[int]:
    """Check the header of a safetensors file; return the number of values of each tensor.

    safetensors checks that the tensors of the header fill the file exactly, so reading it takes no
    more memory than two to three times the bytes of the file.

    Raises:
        CheckpointError: The header is longer than 4 MiB or damaged, or has more than 20,000 tensors
            or an unknown type; or its tensors do not fill the file.
    """
    with _reading(file):
        with file.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has {length} bytes; at most {LARGEST_HEADER} are read")
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            if len(names) > MOST_TENSORS:
                raise ValueError(f"it holds {len(names)} tensors; at most {MOST_TENSORS} are read")
            return [_size(name, opened.get_slice(name)) for name in names]


def read_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read all tensors of a file and check its SHA-256; call `read_sizes` first.

    The file is read once, so the tensors come from the bytes that were hashed.

    Raises:
        CheckpointError: The file cannot be read, has another SHA-256, or see `read_sizes`.
    """
    with _reading(file):
        data = file.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise CheckpointError(
                f"{file} is damaged or from another checkpoint: its SHA-256 is {found}, {CONFIG} "
                f"says {sha256}"
            )
        return load(data)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its SHA-256.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(values, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    return sha256_of(file)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn errors of safetensors, torch and the system into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = printable(error, longest=1000)
        raise CheckpointError(f"{file} is not a readable safetensors file: {reason}") from None


def _size(name: str, found: Any) -> int:
    """Check type and shape of one tensor, and return its number of values."""
    kind, shape = found.get_dtype(), tuple(found.get_shape())
    if kind not in _TYPES:
        raise ValueError(f"{name[:40]} has type {kind}; it must be one of {', '.join(_TYPES)}")
    # torch computes strides of empty tensors too, so their other sizes are bounded as well.
    if len(shape) > _MOST_DIMENSIONS or math.prod(size or 1 for size in shape) > _MOST_VALUES:
        raise ValueError(f"the shape of {name[:40]} is {str(shape)[:40]}")
    return math.prod(shape)
