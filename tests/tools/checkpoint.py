"""Damage checkpoints as an attacker who knows the format would, within limits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "MOST_BYTES",
    "MOST_SECONDS",
    "bounded",
    "header_of",
    "limit_memory",
    "sign",
    "with_header",
]

MOST_SECONDS = 5.0
MOST_BYTES = 2**30


def sign(path: Path, change: Callable[[dict[str, Any]], object] = lambda values: None) -> None:
    """Hash the tensor files again and change the configuration."""
    values = json.loads((path / "config.json").read_text())
    values["files"] = {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in values["files"]
        if (path / name).exists()
    }
    change(values)
    (path / "config.json").write_text(json.dumps(values))


def header_of(data: bytes) -> tuple[bytes, bytes]:
    """The JSON header of a safetensors file, and the bytes of its tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def with_header(header: bytes | dict[str, Any], tensors: bytes, length: int | None = None) -> bytes:
    """A safetensors file with any header; `length` replaces the header's true length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def limit_memory() -> None:
    """Limit this process to 1 GiB more than it uses, on Linux.

    A larger request fails with an error that is not one of the documented ones.
    """
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, limit[1]))


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """Assert that the block takes under 5 s and under 1 GiB of memory (see `limit_memory`).

    Processor time is measured, since other processes may use the machine too.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory()
    start = time.process_time()
    try:
        yield
    finally:
        took = time.process_time() - start
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert took < MOST_SECONDS, f"{what} took {took:.1f} s"
