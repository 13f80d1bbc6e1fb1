"""The files of a checkpoint directory and the raw values of its `config.json`.

This module knows file names, hashes, keys and bounds. What the values mean is up to
`nfaug.checkpoint.config` and `nfaug.flows.stored`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .strict_json import jsonable, parse_json
from .text import printable
from .version import __version__

__all__ = [
    "CONFIG",
    "GAUSSIANS",
    "LARGEST_CONFIG",
    "LONGEST_REASON",
    "MODEL",
    "MOST_CLASSES",
    "MOST_SHARDS",
    "PCA",
    "PICTURE",
    "TENSOR_FILE",
    "CheckpointError",
    "check_files_present",
    "dump_manifest",
    "pca_files",
    "pca_names",
    "read_json",
    "read_manifest",
    "reading",
    "tensor_files",
]

CONFIG, MODEL, GAUSSIANS, PCA = (
    "config.json",
    "model.safetensors",
    "gaussians.safetensors",
    "pca.safetensors",
)
FORMAT_VERSION = 1
MOST_CLASSES = 65_536
MOST_SHARDS = 1000
PICTURE = "samples.png"  # beside a checkpoint: images and variants of its flow
LARGEST_CONFIG = 6 * 2**20  # bytes, enough for 65,536 class names of 80 letters
LONGEST_REASON = 1000  # characters of an error message that quotes the configuration
_SHARD = re.compile(r"pca-[0-9]{5}-of-[0-9]{5}\.safetensors")
TENSOR_FILE = re.compile(rf"(model|gaussians|pca)\.safetensors|{_SHARD.pattern}")
_SHA256 = re.compile("[0-9a-f]{64}")
_OBJECTS = ("flow", "preprocessing", "gaussians", "training", "metrics")
_REQUIRED = {"format_version", "library_version", "class_names", "files", *_OBJECTS}
# `config_sha256` is ignored: files written before 0.2 have it.
_OPTIONAL = {"autoencoder", "config_sha256"}


class CheckpointError(ValueError):
    """A directory or file is not a checkpoint or is damaged; the message names the file."""


@contextlib.contextmanager
def reading(file: Path | str, *, longest: int | None = None) -> Iterator[None]:
    """Turn a ValueError about the content of `file` into a CheckpointError that names it.

    Its text is printable, and cut if it is longer than `longest` characters.
    """
    try:
        yield
    except CheckpointError:
        raise
    # torch raises RuntimeError for shapes that do not fit.
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{file}: {printable(error, longest=longest)}") from None


def dump_manifest(values: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the text of `config.json`.

    Args:
        values: Everything but the versions and the list of files.
        files: Name and SHA-256 of each tensor file.

    Raises:
        TypeError: A value has a type that JSON lacks.
        ValueError: The text could not be read again (see `read_manifest`).
    """
    _check_names(list(values["class_names"]))
    versions = {"format_version": FORMAT_VERSION, "library_version": __version__}
    content = jsonable({**versions, **values, "files": files})
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _parse(text.encode())
    return text


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of at most 6 MiB.

    Raises:
        ValueError: The file is larger, is not strict JSON (see `parse_json`), or not an object.
    """
    with file.open("rb") as opened:
        return _parse(opened.read(LARGEST_CONFIG + 1))


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Read and check `config.json`; tensor files are not opened.

    Returns:
        Its values. All required keys are present and none is unknown; `class_names` is a list of
        distinct strings; `files` maps names of tensor files to SHA-256 digests.

    Raises:
        CheckpointError: There is no such file, or it is damaged, too large or of a newer format.
    """
    file = Path(directory) / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not an nfaug checkpoint: it has no {CONFIG}")
    try:
        values = read_json(file)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not readable as JSON: {printable(error)}") from None
    with reading(file, longest=LONGEST_REASON):
        _check_keys(values)
        _check_names(values["class_names"])
        _check_files(values["files"])
    return values


def pca_names(count: int) -> list[str]:
    """Return the names of `count` files of PCA axes: one plain name or numbered shards."""
    if count == 1:
        return [PCA]
    return [f"pca-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def pca_files(names: Iterable[str]) -> list[str]:
    """Return those of the names that hold PCA axes, in order."""
    return sorted(name for name in names if name == PCA or _SHARD.fullmatch(name))


def check_files_present(directory: Path, names: Iterable[str]) -> None:
    """Check that the listed tensor files exist and that there is no unlisted shard.

    Raises:
        CheckpointError: Names the file.
    """
    names = list(names)
    for name in names:
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing; {CONFIG} lists it")
    for entry in directory.iterdir():
        if _SHARD.fullmatch(entry.name) and entry.name not in names:
            raise CheckpointError(
                f"{entry} is not listed in {CONFIG}; it belongs to another checkpoint: remove it"
            )


def tensor_files(directory: Path) -> list[str]:
    """Return the names of the tensor files in a directory, listed in its configuration or not."""
    if not directory.is_dir():
        return []
    return sorted(e.name for e in directory.iterdir() if TENSOR_FILE.fullmatch(e.name))


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST_CONFIG:
        raise ValueError(f"it is longer than {LARGEST_CONFIG} bytes")
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    return values


def _check_keys(values: Mapping[str, Any]) -> None:
    if "format_version" not in values:
        raise ValueError("not an nfaug configuration: it has no format_version")
    version = values["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"format version {str(version)[:40]!r}; this nfaug reads {FORMAT_VERSION}. A newer "
            "nfaug may read it: pip install -U nfaug"
        )
    missing, unknown = sorted(_REQUIRED - set(values)), sorted(set(values) - _REQUIRED - _OPTIONAL)
    if missing or unknown:
        raise ValueError(f"missing {missing}, unknown {[name[:40] for name in unknown[:5]]}")
    if wrong := [key for key in _OBJECTS if not isinstance(values[key], dict)]:
        raise ValueError(f"{', '.join(wrong)} must be objects")


def _check_names(names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of strings")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"there are {len(names)} class_names; at most {MOST_CLASSES} are read")
    if twice := [name[:40] for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"class_names are not distinct: {twice[:5]}")


def _check_files(files: Any) -> None:
    names = list(files) if isinstance(files, dict) else []
    if MODEL not in names:
        raise ValueError(f"files must name {MODEL} and its SHA-256")
    if unknown := sorted(name for name in names if not TENSOR_FILE.fullmatch(name)):
        raise ValueError(f"files names {unknown[:5]}, which this format does not have")
    axes = pca_files(names)
    if axes and (len(axes) > MOST_SHARDS or axes != pca_names(len(axes))):
        raise ValueError(
            f"files names {len(axes)} files of PCA axes, from {axes[0]} to {axes[-1]}; it must be "
            f"{PCA} alone or all shards 00001 to M of one number M of at most {MOST_SHARDS}"
        )
    for name, digest in files.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"the SHA-256 of {name} is {str(digest)[:64]!r}")
