"""Damaging checkpoints as somebody would who knows how they are signed, within bounds."""

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
    """Hash the files again, change the configuration, and hash that."""
    values = json.loads((path / "config.json").read_text())
    values["files"] = {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in values["files"]
        if (path / name).exists()
    }
    del values["config_sha256"]
    change(values)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    values["config_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (path / "config.json").write_text(json.dumps(values))


def header_of(data: bytes) -> tuple[bytes, bytes]:
    """The JSON header of a safetensors file, and the bytes of its tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def with_header(header: bytes | dict[str, Any], tensors: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any header, which may give itself another length than it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def limit_memory() -> None:
    """From here on this process gets 1 GiB more than it has, where the kernel counts it.

    What asks for more is refused, which ends in an error of another type than the documented ones.
    """
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, limit[1]))


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """What happens here takes under 5 s and under 1 GiB of memory (see `limit_memory`).

    Seconds are the processor's: others may use the machine too, and what waits for nothing but it
    cannot hang without using it.
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
