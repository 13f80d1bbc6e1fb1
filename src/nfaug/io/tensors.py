"""Read and write safetensors files, with their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import FileError
from .text import printable

_TYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    # In the snapshots of a training run:
    torch.uint8,
    torch.bool,
}


def read_tensors(file: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Map all tensors of a file into memory, and check its SHA-256 if it is given.

    Values are read from the file when they are used, and the processes of a machine share them. A
    write to a tensor changes a copy of its page, not the file. The file may be replaced or removed
    meanwhile, as atomic writes do, but not changed in place. safetensors checks that the tensors
    fill it exactly. Windows replaces no file that is mapped: there the tensors are copies.

    Raises:
        FileError: The file is missing or damaged, or a tensor has an unknown type.
    """
    try:
        if not file.is_file():
            raise ValueError("it is missing, or not a regular file")
        with file.open("rb") as opened:
            if sha256 is not None:
                _compare(file, _sha256(opened), sha256)
            tensors = _mapped(file)
            if not os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                raise ValueError("it was replaced while it was read: read it again")
        unknown = {tensor.dtype for tensor in tensors.values()} - _TYPES
        if unknown:
            raise ValueError(f"it holds tensors of the types {unknown}")
        return tensors
    except FileError:
        raise
    except Exception as error:  # safetensors and torch raise many types for hostile headers
        reason = printable(error, longest=1000)
        raise FileError(f"{file} is not a readable safetensors file: {reason}") from None


def _mapped(file: Path) -> dict[str, Tensor]:
    """All tensors of a file."""
    tensors = {}
    with safe_open(file, framework="pt") as mapped:
        for name in mapped.keys():  # noqa: SIM118 (it is no mapping)
            tensor = mapped.get_tensor(name)
            tensors[name] = tensor.clone() if os.name == "nt" else tensor
    return tensors


def check_sha256(file: Path, sha256: str) -> None:
    """Raise FileError unless a file has this SHA-256."""
    _compare(file, file_sha256(file), sha256)


def _compare(file: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise FileError(
            f"{file} is damaged or from another checkpoint: its SHA-256 is {actual}, "
            f"the JSON file beside it says {expected!s:.64}"
        )


def file_sha256(file: Path) -> str:
    """SHA-256 of a file of any size."""
    with file.open("rb") as opened:
        return _sha256(opened)


def _sha256(opened: BinaryIO) -> str:
    sha = hashlib.sha256()
    for part in iter(partial(opened.read, 2**20), b""):  # a file may have gigabytes
        sha.update(part)
    return sha.hexdigest()


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
    return file_sha256(file)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
