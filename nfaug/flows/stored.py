"""The flow of a checkpoint directory: its configuration, codec and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.manifest import CONFIG, LONGEST_REASON, MODEL, reading
from ..io.tensors import read_tensors
from .autoencoder import AutoencoderConfig, find_autoencoder
from .config import FlowConfig
from .flow import Flow

__all__ = ["parse_flow", "read_flow"]


def parse_flow(
    directory: Path, manifest: Mapping[str, Any]
) -> tuple[FlowConfig, AutoencoderConfig | None]:
    """Return the typed form of the keys `flow` and `autoencoder` of a manifest.

    Raises:
        CheckpointError: A value is unknown or out of range.
    """
    file = directory / CONFIG
    with reading(f"{file}: flow", longest=LONGEST_REASON):
        flow = FlowConfig.from_dict(manifest["flow"])
    if "autoencoder" not in manifest:
        return flow, None
    with reading(f"{file}: autoencoder", longest=LONGEST_REASON):
        return flow, AutoencoderConfig(**manifest["autoencoder"])


def read_flow(
    directory: Path, manifest: Mapping[str, Any], autoencoder: str | Path | None = None
) -> Flow:
    """Read the weights and build the flow.

    Args:
        directory: The checkpoint directory.
        manifest: The values of its `config.json`, from `read_manifest`.
        autoencoder: Directory or repository to use instead of the recorded autoencoder.

    Raises:
        CheckpointError: The weights are missing, damaged or do not fit the configuration, or the
            autoencoder is not the recorded one.
        ValueError: `autoencoder` is given for a flow on pixels.
    """
    config, recorded = parse_flow(directory, manifest)
    codec = None
    if recorded is not None:
        from .latent_codec import LatentCodec  # a flow on pixels does not need it

        with reading(directory):
            found = find_autoencoder(recorded, near=directory, given=autoencoder)
            codec = LatentCodec(found, recorded).for_flow(config)
    elif autoencoder is not None:
        raise ValueError(f"{directory} holds a flow on pixels, which needs no autoencoder")
    file = directory / MODEL
    with reading(file, longest=10 * LONGEST_REASON):
        return Flow.from_tensors(config, read_tensors(file, manifest["files"][MODEL]), codec)
