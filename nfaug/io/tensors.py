"""Read and write safetensors files; headers are checked before anything is allocated."""

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

from .manifest import CONFIG, CheckpointError
from .strict_json import parse_json
from .text import printable

__all__ = [
    "LARGEST_HEADER",
    "MOST_TENSORS",
    "Stored",
    "check_sha256",
    "read_layout",
    "read_tensors",
    "sha256_of",
    "write_tensors",
]

MOST_TENSORS = 20_000  # per file; the paper's flow has 1,296
LARGEST_HEADER = 2**22  # bytes, enough for 20,000 tensors
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**60
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
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_layout(file: Path) -> dict[str, Stored]:
    """Return {name: type and shape} from the header of a safetensors file.

    The tensors of the header fill the file exactly, so reading it takes no more memory than the
    file has bytes.

    Raises:
        CheckpointError: The header is longer than 4 MiB or than the file, is not strict JSON, or
            has more than 20,000 tensors or an unknown type; or offsets overlap, leave gaps or do
            not end at the end of the file.
    """
    try:
        with file.open("rb") as opened:
            entries = _entries(opened, os.fstat(opened.fileno()).st_size)[0]
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a readable safetensors file: {printable(error)}"
        ) from None
    return {name: stored for name, (stored, _) in entries.items()}


def read_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read all tensors of a file and check its SHA-256; call `read_layout` first.

    The file is read once, so the tensors come from the bytes that were hashed. They are views of
    one buffer, which saves a copy.

    Raises:
        CheckpointError: The file cannot be read, has another SHA-256, or see `read_layout`.
    """
    try:
        with file.open("rb") as opened:
            data = bytearray(os.fstat(opened.fileno()).st_size)
            if opened.readinto(data) != len(data):
                raise OSError("it became shorter while it was read")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    check_sha256(file, hashlib.sha256(data).hexdigest(), sha256)
    try:
        entries, start = _entries(io.BytesIO(data[: LARGEST_HEADER + 8]), len(data))
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not a readable safetensors file: {printable(error)}"
        ) from None
    return {
        name: _part(data, stored, start + first) for name, (stored, (first, _)) in entries.items()
    }


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its SHA-256.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(values, file, metadata={"format": "pt"})
    except SafetensorError as error:  # holds the system's error number in its text only
        found = re.search(r"(?:os error|Os \{ code:) (\d+)", str(error))
        if found is None:
            raise OSError(f"{file} cannot be written: {error}") from error
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error
    return sha256_of(file)


def _part(data: bytearray, stored: Stored, start: int) -> Tensor:
    """Return the tensor that begins at byte `start`; copy it if that is not aligned."""
    dtype, shape = stored
    if not stored.numel:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:
        stop = start + stored.numel * dtype.itemsize
        return torch.frombuffer(data[start:stop], dtype=dtype).reshape(shape)
    return torch.frombuffer(data, dtype=dtype, count=stored.numel, offset=start).reshape(shape)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(file: Path, found: str, listed: str) -> None:
    """Check the SHA-256 of a file against the one in the configuration.

    Raises:
        CheckpointError: They differ; the message gives both.
    """
    if found != listed:
        raise CheckpointError(
            f"{file} is damaged or from another checkpoint: its SHA-256 is {found}, {CONFIG} says "
            f"{listed}"
        )


def _entries(opened: BinaryIO, size: int) -> tuple[dict[str, tuple[Stored, Span]], int]:
    """Return type, shape and byte range of every tensor, and the offset of the first byte."""
    start = opened.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or 8 + length > size:
        raise ValueError(f"it has {size} bytes, fewer than the {8 + length} of its header")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes; at most {LARGEST_HEADER} are read")
    header = parse_json(opened.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    said = header.pop("__metadata__", {})  # ignored, but checked against the format
    if not isinstance(said, dict) or not all(isinstance(text, str) for text in said.values()):
        raise ValueError("its __metadata__ holds a value that is not a string")
    if len(header) > MOST_TENSORS:
        raise ValueError(f"it holds {len(header)} tensors; at most {MOST_TENSORS} are read")
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for first, last in sorted(span for _, span in entries.values()):
        if first != end:
            raise ValueError(f"a tensor begins at byte {first}, not at {end}")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end}, the file at {size}")
    return entries, 8 + length


def _entry(name: str, entry: Any) -> tuple[Stored, Span]:
    """Return type, shape and byte range of one tensor."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is not a valid tensor name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} is not dtype, shape and data_offsets")
    kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(
            f"{name} has type {str(kind)[:40]!r}; it must be one of {', '.join(_TYPES)}"
        )
    # torch computes strides of empty tensors too, so their other sizes are bounded as well.
    if (
        not _sizes(shape)
        or len(shape) > _MOST_DIMENSIONS
        or (0 in shape and math.prod(size or 1 for size in shape) > _MOST_VALUES)
    ):
        raise ValueError(f"the shape of {name} is {str(shape)[:40]}")
    if not _sizes(span) or len(span) != 2:
        raise ValueError(f"the data_offsets of {name} are {str(span)[:40]}")
    stored = Stored(dtype, tuple(shape))
    first, last = span
    if last - first != stored.numel * dtype.itemsize:
        raise ValueError(
            f"{name} is {kind} {str(shape)[:40]} in {last - first} bytes instead of "
            f"{stored.numel * dtype.itemsize}"
        )
    return stored, (first, last)


def _sizes(value: Any) -> bool:
    """Whether the value is a list of whole numbers of at least 0."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
