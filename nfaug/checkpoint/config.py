"""The typed content of a checkpoint's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..flows.autoencoder import AutoencoderConfig
from ..flows.config import FlowConfig
from ..io.manifest import CONFIG, LONGEST_REASON, dump_manifest, reading

__all__ = ["CheckpointConfig"]

_OBJECTS = ("preprocessing", "gaussians", "training", "metrics")


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says besides versions and hashes.

    Attributes:
        flow: Shape of the flow.
        class_names: Names in label order; empty for a flow without classes.
        preprocessing: What was done to images before the flow saw them.
        gaussians: Settings by which the class gaussians were found.
        training: Summary of the training run.
        metrics: Figures measured on held-out data.
        autoencoder: The autoencoder in whose latent space the flow works; None for pixels.
    """

    flow: FlowConfig
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    gaussians: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    autoencoder: AutoencoderConfig | None = None

    @classmethod
    def from_manifest(cls, directory: Path, manifest: Mapping[str, Any]) -> CheckpointConfig:
        """Return the configuration of `read_manifest(directory)`.

        Raises:
            CheckpointError: The flow or the autoencoder has an unknown or impossible value.
        """
        file, autoencoder = directory / CONFIG, None
        with reading(f"{file}: flow", longest=LONGEST_REASON):
            flow = FlowConfig.from_dict(manifest["flow"])
        with reading(f"{file}: autoencoder", longest=LONGEST_REASON):
            if "autoencoder" in manifest:
                autoencoder = AutoencoderConfig(**manifest["autoencoder"])
        own = {name: manifest[name] for name in _OBJECTS}
        return cls(flow, tuple(manifest["class_names"]), autoencoder=autoencoder, **own)

    def to_json(self, files: Mapping[str, str]) -> str:
        """Return the text of `config.json`; `files` maps tensor files to their SHA-256.

        Raises:
            TypeError: A value has a type that JSON lacks.
            ValueError: Class names are too many or not distinct, or the text is too long.
        """
        values = {**vars(self), "flow": self.flow.to_dict()}
        if (record := values.pop("autoencoder")) is not None:
            values["autoencoder"] = record.to_dict()
        return dump_manifest(values, files)
