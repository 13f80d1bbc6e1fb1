"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checkpoint.checkpoint import Checkpoint

__all__ = ["TrainResult"]


@dataclass
class TrainResult:
    """A trained checkpoint and its training history.

    Attributes:
        checkpoint: Averaged flow weights, class gaussians and PCA. With several processes only the
            main one fits PCA.
        history: One row per evaluation, as in `log.csv`.
        loss: Bits per dimension of every step that was not skipped.
        initial: The flow after its data-dependent initialisation (or as passed in `init`), with the
            gaussians solved on it.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    initial: Checkpoint | None = None
