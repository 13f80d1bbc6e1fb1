"""safetensors files of strangers: judged by their header before anything is allocated."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from .checkpoint_files import CONFIG, CheckpointError
from .jsonable import parse_json

__all__ = ["MOST_TENSORS", "Stored", "read_layout", "read_tensors", "sha256_of"]

MOST_TENSORS = 20_000  # of a file; the paper's flow has 1,296
_LARGEST_HEADER = 2**22  # bytes, with room for as many
_MOST_DIMENSIONS = 8
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}


class Stored(NamedTuple):
    """A tensor in a file that was not read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_layout(file: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by its header alone.

    Where it says that a tensor is, the file has that many bytes, no more and no fewer, so that
    reading takes as much memory as the file has on disk whatever the header says.

    Raises:
        CheckpointError: the header is longer than 4 MiB or than the file, no strict JSON, of more
            than 20,000 tensors, or says something that no checkpoint's tensors are; or offsets
            overlap, leave gaps, or do not end where the file does.
    """
    try:
        with file.open("rb") as opened:
            return _layout(opened, os.fstat(opened.fileno()).st_size)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None


def read_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    """All tensors of a file that has this SHA-256; `read_layout` has judged it before.

    Raises:
        CheckpointError: it cannot be read, or its bytes are others.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    refuse_other_bytes(file, hashlib.sha256(data).hexdigest(), sha256)
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def refuse_other_bytes(file: Path, found: str, listed: str) -> None:
    """Refuse a file whose SHA-256 is not the one that the configuration lists.

    Raises:
        CheckpointError: says both.
    """
    if found != listed:
        raise CheckpointError(
            f"{file} is damaged or from another checkpoint: its SHA-256 is {found}, {CONFIG} says "
            f"{listed}"
        )


def _layout(opened: BinaryIO, size: int) -> dict[str, Stored]:
    start = opened.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or 8 + length > size:
        raise ValueError(f"it has {size} bytes, of which {8 + length} would be its header")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes; at most {_LARGEST_HEADER} are read")
    header = parse_json(opened.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)  # of no use here
    if len(header) > MOST_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors; at most {MOST_TENSORS} are read")
    layout, spans = {}, []
    for name, entry in header.items():
        layout[name], span = _entry(name, entry)
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise ValueError(f"a tensor begins at byte {first} where one at {end} is due")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end}, and it has {size}")
    return layout


def _entry(name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    """Type, shape and place of one tensor."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"no checkpoint has a tensor that is called {name[:40]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} is not dtype, shape and data_offsets")
    kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(f"{name} is of type {str(kind)[:40]!r}; there are {', '.join(_TYPES)}")
    if not _sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"the shape of {name} is {str(shape)[:40]}")
    if not _sizes(span) or len(span) != 2:
        raise ValueError(f"the data_offsets of {name} are {str(span)[:40]}")
    stored = Stored(dtype, tuple(shape))
    first, last = span
    if last - first != stored.numel * dtype.itemsize:
        raise ValueError(
            f"{name} is {kind} {str(shape)[:40]} in {last - first} bytes, where it has "
            f"{stored.numel * dtype.itemsize}"
        )
    return stored, (first, last)


def _sizes(value: Any) -> bool:
    """Whether it is a list of whole numbers that are not negative."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
