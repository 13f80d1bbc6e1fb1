"""Read and write the parts of a checkpoint directory: flow, configuration, gaussians and PCA."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from ..classes.gaussians import ClassGaussians
from ..classes.pca_fit import ClasswisePCA
from ..flows.autoencoder import AutoencoderSource, find_autoencoder
from ..flows.flow import Flow, check_finite
from ..flows.latent_codec import LatentCodec
from ..io.atomic import check_output, replace_directory
from ..io.manifest import (
    CONFIG,
    GAUSSIANS,
    LONGEST_REASON,
    MODEL,
    PCA,
    PICTURE,
    TENSOR_FILES,
    read_manifest,
    reading,
)
from ..io.tensors import read_tensors, write_tensors
from .config import CheckpointConfig

__all__ = ["Parts", "read_parts", "write_parts"]

# The fields of `nfaug.Checkpoint`, in order.
Parts: TypeAlias = tuple[Flow, CheckpointConfig, ClassGaussians | None, ClasswisePCA | None]


def read_parts(
    directory: Path, *, autoencoder: AutoencoderSource | None = None, on_latents: bool = True
) -> Parts:
    """Read and check a checkpoint directory; see `nfaug.load`.

    Without `on_latents` the autoencoder of a flow on latents is not opened: the flow can be
    checked, but neither encode nor decode images.
    """
    manifest = read_manifest(directory)
    if not on_latents:
        manifest.pop("autoencoder", None)
    files: Mapping[str, str] = manifest["files"]
    config = CheckpointConfig.from_manifest(directory, manifest)
    flow = _read_flow(directory, config, files[MODEL], autoencoder).eval()
    gaussians = pca = None
    if GAUSSIANS in files:
        with reading(directory / GAUSSIANS):
            tensors = read_tensors(directory / GAUSSIANS, files[GAUSSIANS])
            if set(tensors) != {"means", "variances", "counts"}:
                raise ValueError(
                    f"class gaussians are means, variances and counts; got {[*tensors][:9]}"
                )
            gaussians = ClassGaussians(**tensors)
            _check_classes(config, gaussians, None)
    if PCA in files:
        with reading(directory / PCA):
            pca = ClasswisePCA.from_tensors(read_tensors(directory / PCA, files[PCA]))
            _check_classes(config, None, pca)
    return flow, config, gaussians, pca


def _read_flow(
    path: Path, config: CheckpointConfig, sha256: str, autoencoder: AutoencoderSource | None
) -> Flow:
    """Read the weights, and the recorded autoencoder or the given one, and build the flow."""
    codec = None
    if config.autoencoder is not None:
        with reading(path):
            found = find_autoencoder(config.autoencoder, near=path, given=autoencoder)
            codec = LatentCodec(found, config.autoencoder).for_flow(config.flow)
    elif autoencoder is not None:
        raise ValueError(f"{path} holds a flow on pixels, which needs no autoencoder")
    with reading(path / MODEL, longest=10 * LONGEST_REASON):
        return Flow.from_tensors(config.flow, read_tensors(path / MODEL, sha256), codec)


def write_parts(
    directory: str | Path,
    parts: Parts,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint directory; see `nfaug.Checkpoint.save`."""
    path = Path(directory).expanduser()
    check_output(path, overwrite=overwrite)
    flow, config, gaussians, pca = parts
    _check_readable(parts)
    tensors: dict[str, Mapping[str, Tensor]] = {MODEL: flow.state_dict()}
    if gaussians is not None:
        tensors[GAUSSIANS] = gaussians.state_dict()
    if pca is not None:
        tensors[PCA] = pca.tensors()
    drop = frozenset({*TENSOR_FILES, PICTURE})
    with replace_directory(path, drop=drop) as staged:
        files = {name: write_tensors(staged / name, values) for name, values in tensors.items()}
        (staged / CONFIG).write_text(config.to_json(files), encoding="utf-8")
        for name in files:  # safetensors makes files that only their owner can read
            shutil.copymode(staged / CONFIG, staged / name)
    return path


def _check_readable(parts: Parts) -> None:
    """Raise ValueError for what `read_parts` would refuse, before anything is written."""
    flow, config, gaussians, pca = parts
    if flow.frozen:
        raise ValueError(
            "a frozen flow has no weights to save; save the flow that it was made from"
        )
    if (flow.config, flow.codec.record) != (config.flow, config.autoencoder):
        raise ValueError(
            f"the flow is {flow.config} with the autoencoder {flow.codec.record}, but the "
            f"configuration says {config.flow} with {config.autoencoder}"
        )
    _check_classes(config, gaussians, pca)
    config.to_json({})  # raises for bad names and values
    check_finite(flow.state_dict())
    if pca is not None:
        ClasswisePCA.from_tensors(pca.tensors())  # raises for types and values


def _check_classes(
    config: CheckpointConfig, gaussians: ClassGaussians | None, pca: ClasswisePCA | None
) -> None:
    """Raise ValueError if the gaussians or the PCA have other classes or another dimension."""
    classes, dim = len(config.class_names), config.flow.dim
    # A flow without classes has one gaussian.
    for part, expected in ((gaussians, classes or 1), (pca, classes)):
        if part is not None and (part.num_classes, part.dim) != (expected, dim):
            raise ValueError(
                f"{type(part).__name__} has {part.num_classes} classes in {part.dim} dimensions; "
                f"the checkpoint has {classes} class names and {dim} dimensions"
            )
