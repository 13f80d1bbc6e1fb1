"""What there is to say of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..checkpoint.checkpoint import Checkpoint, CheckpointConfig

__all__ = ["Facts", "facts_of"]


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


def facts_of(checkpoint: Checkpoint, *, picture: bool) -> Facts:
    """What a card needs of a checkpoint; `picture` says whether samples.png is beside it."""
    parameters = sum(weight.numel() for weight in checkpoint.flow.parameters())
    facts = Facts(checkpoint.config, parameters, picture=picture)
    pca = checkpoint.pca
    if pca is None:
        return facts
    return replace(
        facts,
        axes=int(pca.ranks.max()),
        share=float((pca.ranks / pca.counts.clamp(min=1)).max()),
        partners=0 if pca.memory is None else len(pca.memory),
        fewest=int(pca.counts.min()),
    )
