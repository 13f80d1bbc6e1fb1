"""safetensors files: those of strangers are judged by their header before anything is allocated."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .names import CONFIG, CheckpointError
from .strict_json import parse_json

__all__ = ["MOST_TENSORS", "Stored", "read_layout", "read_tensors", "sha256_of", "write_tensors"]

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


Span = tuple[int, int]


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
            entries = _entries(opened, os.fstat(opened.fileno()).st_size)[0]
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None
    return {name: stored for name, (stored, _) in entries.items()}


def read_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    """All tensors of a file that has this SHA-256; `read_layout` has judged its size before.

    The file is read once: what was hashed is what is returned. The tensors are parts of one buffer,
    since a copy of each would take as long again as the reading.

    Raises:
        CheckpointError: it cannot be read, its bytes are others, or see `read_layout`.
    """
    try:
        with file.open("rb") as opened:
            data = bytearray(os.fstat(opened.fileno()).st_size)
            if opened.readinto(data) != len(data):
                raise OSError("it became shorter meanwhile")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    refuse_other_bytes(file, hashlib.sha256(data).hexdigest(), sha256)
    try:
        entries, start = _entries(io.BytesIO(data[: _LARGEST_HEADER + 8]), len(data))
    except ValueError as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None
    return {
        name: _part(data, stored, start + first) for name, (stored, (first, _)) in entries.items()
    }


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its SHA-256.

    Raises:
        OSError: it cannot be written; the disk may be full.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(values, file, metadata={"format": "pt"})
    except SafetensorError as error:  # no OSError, and what the system said is in its words alone
        found = re.search(r"(?:os error|Os \{ code:) (\d+)", str(error))
        if found is None:
            raise OSError(f"{file} cannot be written: {error}") from error
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error
    return sha256_of(file)


def _part(data: bytearray, stored: Stored, start: int) -> Tensor:
    """The tensor that begins at a byte, in memory of its own where its type cannot begin there."""
    dtype, shape = stored
    if not stored.numel:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:
        stop = start + stored.numel * dtype.itemsize
        return torch.frombuffer(data[start:stop], dtype=dtype).reshape(shape)
    return torch.frombuffer(data, dtype=dtype, count=stored.numel, offset=start).reshape(shape)


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


def _entries(opened: BinaryIO, size: int) -> tuple[dict[str, tuple[Stored, Span]], int]:
    """Every tensor with its span of bytes, and where the first of these begins."""
    start = opened.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or 8 + length > size:
        raise ValueError(f"it has {size} bytes, of which {8 + length} would be its header")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes; at most {_LARGEST_HEADER} are read")
    header = parse_json(opened.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    said = header.pop("__metadata__", {})  # of no use here, but a safetensors file has no other
    if not isinstance(said, dict) or not all(isinstance(text, str) for text in said.values()):
        raise ValueError("its __metadata__ are not texts")
    if len(header) > MOST_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors; at most {MOST_TENSORS} are read")
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for first, last in sorted(span for _, span in entries.values()):
        if first != end:
            raise ValueError(f"a tensor begins at byte {first} where one at {end} is due")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end}, and it has {size}")
    return entries, 8 + length


def _entry(name: str, entry: Any) -> tuple[Stored, Span]:
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
