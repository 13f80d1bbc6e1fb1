"""What there is to say of a checkpoint, read without loading it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..checkpoint import CheckpointConfig, verify

__all__ = ["Facts", "read_facts"]


@dataclass(frozen=True)
class Facts:
    """What a card says of a checkpoint.

    Attributes:
        config: its configuration.
        parameters: number of the flow's weights.
        axes: most PCA axes of a class, 0 without PCA.
        share: largest ratio over classes of axes to images, 0 without PCA.
        partners: images in the partner memory.
        fewest: images of the smallest class, 0 where no class was fitted.
        picture: whether samples.png is there.
    """

    config: CheckpointConfig
    parameters: int
    axes: int = 0
    share: float = 0.0
    partners: int = 0
    fewest: int = 0
    picture: bool = False


def read_facts(directory: Path) -> Facts:
    """Read what a card needs from a checkpoint; of the tensors only the few small ones.

    Raises:
        CheckpointError: the directory is no checkpoint, or it is damaged.
    """
    config, files = verify(directory)
    parameters = 0
    found: dict[str, Any] = {}
    for name in files:
        with safe_open(directory / name, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                shape = file.get_slice(key).get_shape()
                if name.startswith("model"):
                    parameters += math.prod(shape)
                elif key in ("ranks", "counts"):
                    found[key] = file.get_tensor(key)
                elif key == "memory_labels":
                    found[key] = shape
    facts = Facts(config, parameters, picture=(directory / "samples.png").is_file())
    if "ranks" not in found or "counts" not in found:
        return facts
    ranks, counts = found["ranks"], found["counts"]
    return replace(
        facts,
        axes=int(ranks.max()),
        share=float((ranks / counts.clamp(min=1)).max()),
        partners=found["memory_labels"][0] if "memory_labels" in found else 0,
        fewest=int(counts.min()),
    )
