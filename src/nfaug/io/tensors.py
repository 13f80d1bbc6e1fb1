"""Read and write safetensors files, with their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
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
    """Read all tensors of a file and check its SHA-256 if it is given.

    The tensors come from the bytes that were hashed. safetensors checks that they fill the file
    exactly, so memory is at most three times the bytes of the file.

    Raises:
        FileError: The file is missing or damaged, or a tensor has an unknown type.
    """
    try:
        if not file.is_file():
            raise ValueError("it is missing, or not a regular file")
        data = file.read_bytes()
        if sha256 is not None:
            _compare(file, hashlib.sha256(data).hexdigest(), sha256)
        tensors = load(data)
        unknown = {tensor.dtype for tensor in tensors.values()} - _TYPES
        if unknown:
            raise ValueError(f"it holds tensors of the types {unknown}")
        return tensors
    except FileError:
        raise
    except Exception as error:  # safetensors and torch raise many types for hostile headers
        reason = printable(error, longest=1000)
        raise FileError(f"{file} is not a readable safetensors file: {reason}") from None


def check_sha256(file: Path, sha256: str) -> None:
    """Raise FileError unless a file has this SHA-256."""
    _compare(file, _file_sha256(file), sha256)


def _compare(file: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise FileError(
            f"{file} is damaged or from another checkpoint: its SHA-256 is {actual}, "
            f"the JSON file beside it says {expected!s:.64}"
        )


def _file_sha256(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as opened:
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
    return _file_sha256(file)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
