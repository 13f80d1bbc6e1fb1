"""The names of a checkpoint's files, and which of them may stand beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CONFIG",
    "GAUSSIANS",
    "MODEL",
    "MOST_SHARDS",
    "PCA",
    "TENSOR_FILE",
    "CheckpointError",
    "pca_files",
    "pca_names",
    "refuse_missing",
    "refuse_names",
    "tensor_files",
]

CONFIG, MODEL, GAUSSIANS, PCA = (
    "config.json",
    "model.safetensors",
    "gaussians.safetensors",
    "pca.safetensors",
)
MOST_SHARDS = 1000
_SHARD = re.compile(r"pca-[0-9]{5}-of-[0-9]{5}\.safetensors")
TENSOR_FILE = re.compile(rf"(model|gaussians|pca)\.safetensors|{_SHARD.pattern}")


class CheckpointError(ValueError):
    """A directory that is no checkpoint, or one that is damaged; the message names the file."""


def pca_names(count: int) -> list[str]:
    """The names of that many files of PCA axes: a plain one, or numbered shards."""
    if count == 1:
        return [PCA]
    return [f"pca-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def pca_files(names: Iterable[str]) -> list[str]:
    """Those of the names that are of PCA axes, in order."""
    return sorted(name for name in names if name == PCA or _SHARD.fullmatch(name))


def refuse_names(names: Iterable[str]) -> None:
    """Refuse a list of tensor files that no checkpoint has.

    Raises:
        ValueError: the flow is not among them, one is unknown, or shards of the PCA axes are
            missing, too many, or of two sets.
    """
    names = list(names)
    if MODEL not in names:
        raise ValueError(f"files must name {MODEL} and its SHA-256")
    if unknown := sorted(name for name in names if not TENSOR_FILE.fullmatch(name)):
        raise ValueError(f"files names {unknown[:5]}, which no checkpoint of this version has")
    found = pca_files(names)
    if found and (len(found) > MOST_SHARDS or found != pca_names(len(found))):
        raise ValueError(
            f"files names {len(found)} of PCA axes, from {found[0]} to {found[-1]}: it must be "
            f"{PCA} alone, or shards 00001 to M of one number M, {MOST_SHARDS} at most"
        )


def refuse_missing(directory: Path, names: Iterable[str]) -> None:
    """Refuse a directory without a file that is listed, or with a shard that is not.

    Raises:
        CheckpointError: names the file.
    """
    names = list(names)
    for name in names:
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing; {CONFIG} lists it")
    for entry in directory.iterdir():
        if _SHARD.fullmatch(entry.name) and entry.name not in names:
            raise CheckpointError(
                f"{entry} is not listed in {CONFIG}: it is of another checkpoint; remove it"
            )


def tensor_files(directory: Path) -> list[str]:
    """Names of the tensor files in a directory, listed or not; none where there is none."""
    if not directory.is_dir():
        return []
    return sorted(e.name for e in directory.iterdir() if TENSOR_FILE.fullmatch(e.name))
