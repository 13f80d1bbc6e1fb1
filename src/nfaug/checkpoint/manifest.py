"""The files of a checkpoint directory and the raw values of its `config.json`."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..io.errors import FileError, reading
from ..io.strict_json import jsonable, parse_json, read_json
from ..io.text import printable
from ..io.version import __version__

CONFIG = "config.json"
MODEL = "model.safetensors"
GAUSSIANS = "gaussians.safetensors"
PCA = "pca.safetensors"
FORMAT_VERSION = 1
PICTURE = "samples.png"  # beside a checkpoint: images and variants of its flow
RUN_SETTINGS = "train.yaml"  # of `nfaug train`, which writes it first and config.json at its end
TENSOR_FILES = (MODEL, GAUSSIANS, PCA)
_SHA256 = re.compile("[0-9a-f]{64}")
_OBJECTS = ("flow", "preprocessing", "gaussians", "training", "metrics")
_REQUIRED = {"format_version", "library_version", "class_names", "files"}.union(_OBJECTS)
# The first checkpoints have `config_sha256`, which is not read.
_OPTIONAL = {"autoencoder", "config_sha256"}


class CheckpointError(FileError):
    """A folder or file is not a checkpoint or is damaged; the message names the file.

    Example:
        >>> import tempfile
        >>> import nfaug
        >>> try:
        ...     nfaug.load(tempfile.mkdtemp())
        ... except nfaug.CheckpointError as error:
        ...     print("config.json" in str(error))
        True
    """


@contextlib.contextmanager
def reading_checkpoint(file: Path | str, *, longest: int = 1000) -> Iterator[None]:
    """Turn an error about the content of `file` into a CheckpointError that names the file."""
    try:
        with reading(file, longest=longest):
            yield
    except CheckpointError:
        raise
    except FileError as error:
        raise CheckpointError(str(error)) from None


def dump_manifest(values: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the text of `config.json`.

    Args:
        values: Everything but the versions and the list of files.
        files: Name and SHA-256 of each tensor file.

    Raises:
        TypeError: A value has a type that JSON lacks.
        ValueError: Class names are not distinct strings, or the text is not strict JSON.
    """
    _check_names(list(values["class_names"]))
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "library_version": __version__}
    content.update(values)
    content["files"] = files
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    parse_json(text.encode())  # raises what a reader of the file would raise
    return text


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Read and check `config.json`; tensor files are not opened.

    Returns:
        Its values. All required keys are present and none is unknown; `class_names` is a list of
        distinct strings; the keys of `files` are names of tensor files.

    Raises:
        CheckpointError: There is no such file, or it is damaged, too large or of a newer format.
    """
    file = Path(directory) / CONFIG
    if not file.is_file() and (file.parent / RUN_SETTINGS).is_file():
        raise CheckpointError(
            f"{file.parent} is an unfinished run of nfaug train, without a {CONFIG} yet: wait for "
            f"its end, or continue it with nfaug train --resume {file.parent}"
        )
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not an nfaug checkpoint: it has no {CONFIG}")
    try:
        values = read_json(file)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not readable as JSON: {printable(error)}") from None
    with reading_checkpoint(file):
        _check_keys(values)
        _check_names(values["class_names"])
        _check_files(values["files"])
    return values


def check_replaceable(directory: Path) -> None:
    """Raise FileExistsError if `config.json` of a directory is that of another program."""
    try:
        values = read_json(directory / CONFIG)
    except (ValueError, OSError):  # there is none, or a damaged one
        return
    if not isinstance(values, dict) or "format_version" not in values:
        raise FileExistsError(
            f"{directory} holds a {CONFIG} of another program: choose another folder"
        )


def _check_keys(values: Mapping[str, Any]) -> None:
    """Raise ValueError for another format version, or if keys are missing or unknown."""
    if "format_version" not in values:
        raise ValueError("not an nfaug configuration: it has no format_version")
    version = values["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"format version {str(version)[:40]!r}; this nfaug reads {FORMAT_VERSION}. A newer "
            "nfaug may read it"
        )
    keys = set(values)
    missing = sorted(_REQUIRED - keys)
    unknown = sorted(keys - _REQUIRED - _OPTIONAL)
    if missing or unknown:
        raise ValueError(f"missing {missing}, unknown {unknown[:5]}")
    wrong = [key for key in _OBJECTS if not isinstance(values[key], dict)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be objects")


def _check_names(names: Any) -> None:
    """Raise ValueError unless class names are a list of distinct strings."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of strings")
    repeated = [name[:40] for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"class_names are not distinct: {repeated[:5]}")


def _check_files(files: Any) -> None:
    """Raise ValueError unless files are an object that names the model and no unknown file."""
    if not isinstance(files, dict) or MODEL not in files:
        raise ValueError(f"files must name {MODEL} and its SHA-256")
    unknown = sorted(set(files).difference(TENSOR_FILES))
    if unknown:
        raise ValueError(f"files names {unknown[:5]}, which this format does not have")
    for name, digest in files.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(
                f"files must have a SHA-256 of 64 hexadecimal digits for {name}; got {digest!r:.80}"
            )
