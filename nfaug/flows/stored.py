"""The flow of a checkpoint directory: its configuration, codec and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ..io.manifest import CONFIG, LONGEST_REASON, MODEL, CheckpointError, reading
from ..io.tensors import read_tensors
from .autoencoder import AutoencoderConfig, find_autoencoder
from .codec import Codec
from .config import FlowConfig

__all__ = ["check_finite", "parse_flow", "read_flow"]

T = TypeVar("T")
_FACTOR, _SLACK = 2, 10**6  # between the configuration and the values of the weights


def parse_flow(
    directory: Path, manifest: Mapping[str, Any]
) -> tuple[FlowConfig, AutoencoderConfig | None]:
    """Return the typed form of the keys `flow` and `autoencoder` of a manifest.

    Raises:
        CheckpointError: A value is unknown, or the flow is larger than the format allows.
    """
    file = directory / CONFIG
    with reading(f"{file}: flow", longest=LONGEST_REASON):
        flow = FlowConfig.from_dict(manifest["flow"])
    if "autoencoder" not in manifest:
        return flow, None
    with reading(f"{file}: autoencoder", longest=LONGEST_REASON):
        return flow, AutoencoderConfig.from_dict(manifest["autoencoder"])


def read_flow(
    build: Callable[[FlowConfig, Mapping[str, Tensor], Codec | None], T],
    directory: Path,
    manifest: Mapping[str, Any],
    autoencoder: str | Path | None = None,
) -> T:
    """Read the weights and build the flow.

    Args:
        build: `Flow.from_tensors`.
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
    tensors = read_tensors(file, manifest["files"][MODEL])
    # Names and shapes are compared later. These two bounds come first: a small file must not make
    # us build a hundred thousand modules.
    values = sum(tensor.numel() for tensor in tensors.values())
    _check_size(file, "tensors", len(tensors), config.tensor_count, 1000)
    _check_size(file, "values", values, config.parameter_count, _SLACK)
    with reading(file, longest=10 * LONGEST_REASON):
        return build(config, tensors, codec)


def _check_size(file: Path, what: str, found: int, expected: int, slack: int) -> None:
    if found > _FACTOR * expected + slack or expected > _FACTOR * found + slack:
        raise CheckpointError(
            f"{file} holds {found} {what}; the flow in {CONFIG} has {expected}, so the two files "
            "do not match"
        )


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a weight is NaN or infinite."""
    # One pass: a sum is finite only if all terms are. Sums of large terms may overflow.
    bad = [
        name
        for name, value in weights.items()
        if not (value.sum().isfinite() or value.isfinite().all())
    ]
    if bad:
        raise ValueError(f"weights hold NaN or infinity in {', '.join(bad)}")
