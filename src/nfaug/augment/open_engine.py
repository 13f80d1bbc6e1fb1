"""The engine of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .engine import Engine, not_fitted
from .pixel_engine import PixelEngine


def engine_of(checkpoint: Any) -> Engine:
    """The engine of a checkpoint, of its name or path, or of itself."""
    if isinstance(checkpoint, Engine):
        return checkpoint
    if isinstance(checkpoint, (str, Path)):
        from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

        name = str(checkpoint)
        checkpoint = load(checkpoint, gaussians=False)
        if checkpoint.pca is None:
            raise not_fitted(name, repr(name))
    if not hasattr(checkpoint, "pca"):
        raise TypeError(
            f"checkpoint must be a Checkpoint, its name or its path; got "
            f"{type(checkpoint).__name__}. Images are fitted first: "
            'NFAugment(nfaug.fit("builtin:pixels", dataset))'
        )
    kind = PixelEngine if checkpoint.flow.shape_free else Engine
    classes = checkpoint.config.classes or ()
    return kind(checkpoint.flow, checkpoint.pca, classes, checkpoint.class_warning)
