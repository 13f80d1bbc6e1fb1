"""What `config.json` of a checkpoint says: written canonically, read strictly."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .flow_config import FlowConfig
from .jsonable import jsonable

__all__ = ["CheckpointConfig", "CheckpointError", "dump_config", "sha256_of", "verify"]

FORMAT_VERSION = 1
CONFIG, MODEL, GAUSSIANS, PCA = (
    "config.json",
    "model.safetensors",
    "gaussians.safetensors",
    "pca.safetensors",
)
_LARGEST = 64 * 2**20  # bytes; 100,000 class names fit many times
_SECTIONS = ("preprocessing", "gaussians", "training", "metrics")
_KEYS = {
    *("format_version", "library_version", "flow", "class_names", "files", "config_sha256"),
    *_SECTIONS,
}


class CheckpointError(ValueError):
    """A directory that is no checkpoint, or one that is damaged; the message names the file."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says beside the tensors.

    Attributes:
        flow: the flow's shape.
        class_names: names in label order; empty for a flow without classes.
        preprocessing: what was done to images before the flow saw them.
        gaussians: settings by which the class gaussians were found.
        training: a summary of the training run.
        metrics: figures measured on held-out data.
    """

    flow: FlowConfig
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    gaussians: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def dump_config(config: CheckpointConfig, files: Mapping[str, str]) -> str:
    """The text of `config.json`; `files` maps the name of each tensor file to its SHA-256."""
    from . import __version__  # here: the package's root imports this module

    values = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "flow": config.flow.to_dict(),
        "preprocessing": config.preprocessing,
        "class_names": config.class_names,
        "gaussians": config.gaussians,
        "training": config.training,
        "metrics": config.metrics,
        "files": files,
    }
    values = jsonable(values)
    values["config_sha256"] = _digest(values)
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def verify(directory: str | Path) -> tuple[CheckpointConfig, dict[str, str]]:
    """Check a checkpoint's configuration and the SHA-256 of every tensor file.

    Returns the configuration and {file name: SHA-256}.

    Raises:
        CheckpointError: the directory is no checkpoint, its configuration is damaged, unknown or
            from a newer format, or a tensor file is missing, damaged or from another checkpoint.
    """
    path = Path(directory)
    values = _read(path)
    file = path / CONFIG
    if wrong := [key for key in ("flow", *_SECTIONS) if not isinstance(values[key], dict)]:
        raise CheckpointError(f"{file}: {', '.join(wrong)} must be objects")
    try:
        flow = FlowConfig.from_dict(values["flow"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: flow: {error}") from None
    _check_names(file, values["class_names"])
    _check_files(path, values["files"])
    sections = {key: values[key] for key in _SECTIONS}
    return CheckpointConfig(flow, tuple(values["class_names"]), **sections), values["files"]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_names(file: Path, names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file}: class_names must be a list of strings")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise CheckpointError(f"{file}: class_names are not distinct: {twice[:5]}")


def _check_files(path: Path, files: Any) -> None:
    if not isinstance(files, dict) or MODEL not in files:
        raise CheckpointError(f"{path / CONFIG}: files must name {MODEL} and its SHA-256")
    if unknown := sorted(set(files) - {MODEL, GAUSSIANS, PCA}):
        raise CheckpointError(
            f"{path / CONFIG}: files names {unknown}, which no version {FORMAT_VERSION} has"
        )
    for name, digest in files.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name} is missing; {CONFIG} lists it")
        if (found := sha256_of(path / name)) != digest:
            raise CheckpointError(
                f"{path / name} is damaged or from another checkpoint: its SHA-256 is {found}, "
                f"{CONFIG} says {digest}"
            )


def _digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{path} is no nfaug checkpoint: it has no {CONFIG}")
    if (size := file.stat().st_size) > _LARGEST:
        raise CheckpointError(f"{file} has {size} bytes; at most {_LARGEST} are read")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # covers bad UTF-8 and bad JSON
        raise CheckpointError(f"{file} is not readable as JSON: {error}") from None
    if not isinstance(values, dict) or "format_version" not in values:
        raise CheckpointError(f"{file} is not an nfaug configuration: no format_version")
    if values["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {values['format_version']!r:.40}; this nfaug reads "
            f"{FORMAT_VERSION}. A newer nfaug may read it: pip install -U nfaug"
        )
    if set(values) != _KEYS:
        raise CheckpointError(
            f"{file}: missing {sorted(_KEYS - set(values))}, unknown {sorted(set(values) - _KEYS)}"
        )
    digest = values.pop("config_sha256")
    try:
        found = _digest(values)
    except (ValueError, RecursionError) as error:  # NaN or Infinity, which JSON does not have
        raise CheckpointError(f"{file} holds a value that is not JSON: {error}") from None
    if found != digest:
        raise CheckpointError(
            f"{file} was changed after it was written: its SHA-256 is {found}, it says {digest}"
        )
    return values
