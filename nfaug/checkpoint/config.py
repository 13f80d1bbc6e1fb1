"""What `config.json` of a checkpoint says: written canonically, read strictly."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..flows.autoencoder import AutoencoderConfig
from ..flows.config import FlowConfig
from ..io.names import CONFIG, CheckpointError, refuse_names
from ..io.strict_json import jsonable, parse_json

__all__ = [
    "MOST_CLASSES",
    "CheckpointConfig",
    "config_digest",
    "dump_config",
    "read_config",
    "read_values",
]

FORMAT_VERSION = 1
MOST_CLASSES = 65_536
_LARGEST = 6 * 2**20  # bytes, with room for as many class names of 80 letters
_LONGEST_REASON = 1000  # characters of what a stranger's values are told to be
_SHA256 = re.compile("[0-9a-f]{64}")
_SECTIONS = ("preprocessing", "gaussians", "training", "metrics")
_KEYS = {
    *("format_version", "library_version", "flow", "class_names", "files", "config_sha256"),
    *_SECTIONS,
}
_AUTOENCODER = "autoencoder"  # of flows on latents only


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
        autoencoder: in whose latent space the flow works; None for a flow on pixels.
    """

    flow: FlowConfig
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    gaussians: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    autoencoder: AutoencoderConfig | None = None


def dump_config(config: CheckpointConfig, files: Mapping[str, str]) -> str:
    """The text of `config.json`; `files` maps the name of each tensor file to its SHA-256.

    Raises:
        TypeError: a value is of no type that JSON has.
        ValueError: there are more than 65,536 class names or they are not distinct, or the text
            could not be read again (see `read_values`).
    """
    from ..io.version import __version__

    _check_names(list(config.class_names))
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
    if config.autoencoder is not None:
        values[_AUTOENCODER] = config.autoencoder.to_dict()
    values = jsonable(values)
    values["config_sha256"] = config_digest(values)
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _parse(text.encode())
    return text


def config_digest(values: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a configuration's canonical form.

    That is all of its values but `config_sha256`, as JSON in ASCII with sorted keys and no spaces.

    Raises:
        ValueError: a number is not finite.
    """
    rest = {key: value for key, value in values.items() if key != "config_sha256"}
    canonical = json.dumps(
        rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_values(file: Path) -> dict[str, Any]:
    """The values of a `config.json`, whatever they are.

    Raises:
        ValueError: it has more than 6 MiB, is no strict JSON (see `parse_json`), or no object.
    """
    with file.open("rb") as opened:
        return _parse(opened.read(_LARGEST + 1))


def read_config(directory: str | Path) -> tuple[CheckpointConfig, dict[str, str]]:
    """A checkpoint's configuration and {file name: SHA-256}; tensor files are not looked at.

    Raises:
        CheckpointError: there is none, or it is damaged, unknown, from a newer format, or asks for
            more than a flow may have.
    """
    file = Path(directory) / CONFIG
    values = _read(file)
    if wrong := [key for key in ("flow", *_SECTIONS) if not isinstance(values[key], dict)]:
        raise CheckpointError(f"{file}: {', '.join(wrong)} must be objects")
    try:
        flow = FlowConfig.from_dict(values["flow"])
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{file}: flow: {str(error)[:_LONGEST_REASON]}") from None
    autoencoder = None
    try:
        if _AUTOENCODER in values:
            autoencoder = AutoencoderConfig.from_dict(values[_AUTOENCODER])
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{file}: autoencoder: {str(error)[:_LONGEST_REASON]}") from None
    try:
        _check_names(values["class_names"])
        _check_files(values["files"])
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    sections = {key: values[key] for key in _SECTIONS}
    names = tuple(values["class_names"])
    return CheckpointConfig(flow, names, **sections, autoencoder=autoencoder), values["files"]


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > _LARGEST:
        raise ValueError(f"it is longer than {_LARGEST} bytes, more than is read")
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError("it is no object")
    return values


def _check_names(names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of strings")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise ValueError(f"class_names hold {letter!r}, which UTF-8 cannot write") from None
    if len(names) > MOST_CLASSES:
        raise ValueError(f"there are {len(names)} class_names; at most {MOST_CLASSES} are read")
    if twice := [name[:40] for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"class_names are not distinct: {twice[:5]}")


def _check_files(files: Any) -> None:
    refuse_names(files if isinstance(files, dict) else {})
    for name, digest in files.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"the SHA-256 of {name} is {str(digest)[:64]!r}")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is no nfaug checkpoint: it has no {CONFIG}")
    try:
        values = read_values(file)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not readable as JSON: {error}") from None
    if "format_version" not in values:
        raise CheckpointError(f"{file} is not an nfaug configuration: no format_version")
    version = values["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {str(version)[:40]!r}; this nfaug reads "
            f"{FORMAT_VERSION}. A newer nfaug may read it: pip install -U nfaug"
        )
    missing, unknown = sorted(_KEYS - set(values)), sorted(set(values) - _KEYS - {_AUTOENCODER})
    if missing or unknown:
        raise CheckpointError(f"{file}: missing {missing}, unknown {_few(unknown)}")
    if (found := config_digest(values)) != values["config_sha256"]:
        said = str(values["config_sha256"])[:64]
        raise CheckpointError(
            f"{file} was changed after it was written: its SHA-256 is {found}, it says {said!r}"
        )
    return values


def _few(names: list[str]) -> list[str]:
    return [name[:40] for name in names[:5]]
