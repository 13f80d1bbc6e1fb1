"""Read and write the parts of a checkpoint directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..classes.gaussians import ClassGaussians
from ..classes.pca_fit import ClasswisePCA
from ..flows.flow import Flow, check_finite
from ..flows.stored import read_flow
from ..io.atomic import check_output, replace_directory
from ..io.manifest import (
    CONFIG,
    GAUSSIANS,
    MODEL,
    PICTURE,
    CheckpointError,
    check_files_present,
    pca_files,
    read_manifest,
    reading,
    tensor_files,
)
from ..io.tensors import (
    LARGEST_HEADER,
    MOST_TENSORS,
    read_sizes,
    read_tensors,
    write_tensors,
)
from .config import CheckpointConfig
from .pca_shards import read_pca, split_pca

__all__ = [
    "SHARD_BYTES",
    "Parts",
    "check_loads",
    "file_limits",
    "read_parts",
    "write_parts",
]

_SWAPS = 5  # times that a directory may be replaced while it is read
_MOST_IMAGES = 10**7  # where the configuration does not say
SHARD_BYTES = 2**28  # of one file of PCA axes


class Parts(NamedTuple):
    """The parts of a checkpoint, as `nfaug.Checkpoint` takes them."""

    flow: Flow
    config: CheckpointConfig
    gaussians: ClassGaussians | None = None
    pca: ClasswisePCA | None = None


def read_parts(directory: str | Path, *, autoencoder: str | Path | None = None) -> Parts:
    """Read and check a checkpoint directory; see `nfaug.Checkpoint.load`."""
    path = Path(directory).expanduser()
    for _ in range(_SWAPS):
        manifest = read_manifest(path)
        try:
            return _read(path, manifest, autoencoder)
        except CheckpointError:
            if read_manifest(path) == manifest:
                raise  # nobody replaced the directory in between
    return _read(path, read_manifest(path), autoencoder)


def check_loads(directory: Path) -> None:
    """Read a checkpoint directory as `read_parts` does, except the autoencoder.

    Raises:
        CheckpointError: See `nfaug.Checkpoint.load`.
    """
    manifest = read_manifest(directory)
    manifest.pop("autoencoder", None)
    _read(directory, manifest)


def file_limits(directory: Path) -> dict[str, int]:
    """Return the most bytes of "model", "gaussians" and "pca" files that `config.json` allows.

    An axis needs an image, so the number of images bounds the axes and the memory.

    Raises:
        CheckpointError: The configuration is damaged or unknown.
    """
    manifest = read_manifest(directory)
    config = CheckpointConfig.from_manifest(directory, manifest)
    classes, dim = len(config.class_names) or 1, config.flow.dim
    counts = (record.get("images") for record in (config.gaussians, config.training))
    images = max((n for n in counts if type(n) is int), default=_MOST_IMAGES)
    rank = min(dim, images)
    pca = classes * (rank + 4) * (dim + 16) + images * (rank + 4)
    shards = max(1, len(pca_files(manifest["files"])))
    return {
        "model": LARGEST_HEADER + 8 * config.flow.parameter_count,
        "gaussians": LARGEST_HEADER + 8 * classes * (2 * dim + 1),
        "pca": shards * LARGEST_HEADER + 4 * pca,
    }


def _read(path: Path, manifest: dict[str, Any], autoencoder: str | Path | None = None) -> Parts:
    files = manifest["files"]
    check_files_present(path, files)
    config = CheckpointConfig.from_manifest(path, manifest)
    flow = read_flow(path, manifest, autoencoder)
    parts = Parts(flow.eval(), config)
    if GAUSSIANS in files:
        with reading(path / GAUSSIANS):
            parts = parts._replace(gaussians=_gaussians(path / GAUSSIANS, files[GAUSSIANS]))
            _check_classes(parts)
    if names := pca_files(files):
        with reading(path / names[0]):
            parts = parts._replace(pca=read_pca(path, files))
            _check_classes(parts)
    return parts


def write_parts(
    directory: str | Path,
    parts: Parts,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a checkpoint directory; see `nfaug.Checkpoint.save`."""
    path = Path(directory).expanduser()
    check_output(path, overwrite=overwrite)
    _check_readable(parts)
    drop = frozenset({*tensor_files(path), PICTURE})
    with replace_directory(path, drop=drop) as staged:
        files = {}
        for name, values in _tensors(parts, shard_bytes):
            files[name] = write_tensors(staged / name, values)
        (staged / CONFIG).write_text(parts.config.to_json(files), encoding="utf-8")
        if (path / PICTURE).is_file() and files == _files(path):  # of the same flow
            shutil.copy2(path / PICTURE, staged / PICTURE)
        for name in files:  # safetensors makes files that only their owner can read
            shutil.copymode(staged / CONFIG, staged / name)
    return path


def _files(path: Path) -> dict[str, str] | None:
    """SHA-256 of each tensor file of a checkpoint; None if it cannot be read."""
    try:
        return dict(read_manifest(path)["files"])
    except CheckpointError:
        return None


def _tensors(parts: Parts, shard_bytes: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the name and the tensors of each file."""
    yield MODEL, dict(parts.flow.state_dict())
    if parts.gaussians is not None:
        yield GAUSSIANS, dict(parts.gaussians.state_dict())
    if parts.pca is not None:
        yield from split_pca(parts.pca, shard_bytes).items()


def _check_readable(parts: Parts) -> None:
    """Check everything that `read_parts` would reject, before anything is written."""
    flow, config = parts.flow, parts.config
    if flow.frozen:
        raise ValueError(
            "a frozen flow has no weights to save; save the flow that it was made from"
        )
    if flow.config != config.flow:
        raise ValueError(f"the flow is {flow.config}, but the configuration says {config.flow}")
    if flow.codec.record != config.autoencoder:
        raise ValueError(
            f"the flow's autoencoder is {flow.codec.record}, but the configuration says "
            f"{config.autoencoder}"
        )
    if (number := len(flow.state_dict())) > MOST_TENSORS:
        raise ValueError(f"the flow has {number} tensors; at most {MOST_TENSORS} can be read")
    _check_classes(parts)
    config.to_json({})  # raises for bad names and values
    check_finite(flow.state_dict())
    if parts.pca is not None:
        ClasswisePCA.from_tensors(parts.pca.tensors())  # raises for types and values


def _check_classes(parts: Parts) -> None:
    """Raise ValueError if the gaussians or the PCA have other classes or another dimension."""
    classes, dim = len(parts.config.class_names), parts.config.flow.dim
    # A flow without classes has one gaussian.
    for part, expected in ((parts.gaussians, classes or 1), (parts.pca, classes)):
        if part is not None and (part.num_classes, part.dim) != (expected, dim):
            raise ValueError(
                f"{type(part).__name__} has {part.num_classes} classes in {part.dim} dimensions; "
                f"the checkpoint has {classes} class names and {dim} dimensions"
            )


def _gaussians(file: Path, sha256: str) -> ClassGaussians:
    read_sizes(file)
    tensors = read_tensors(file, sha256)
    if set(tensors) != {"means", "variances", "counts"}:
        raise ValueError(f"class gaussians are means, variances and counts; got {[*tensors][:9]}")
    return ClassGaussians(**tensors)
