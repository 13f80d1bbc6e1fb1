"""Solving for the class gaussians that a flow is trained under."""

from __future__ import annotations

import torch
from torch import Tensor

from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import Batches, progress_bar
from nfaug.flows.flow import Flow

from ..config import PriorConfig
from .distributed import Processes, draw_noise, shared_batches

__all__ = ["check_prior", "class_statistics", "prior_labels", "representative"]


def check_prior(config: PriorConfig, num_classes: int) -> None:
    """Check that the data have as many classes as the prior needs.

    Raises:
        ValueError: If there are fewer.
    """
    if num_classes < config.entry.min_classes:
        raise ValueError(
            f"prior.kind {config.kind!r} needs at least {config.entry.min_classes} classes, the "
            f"data have {num_classes}; set prior.kind to 'single'"
        )


def prior_labels(config: PriorConfig, labels: Tensor) -> Tensor:
    """The index of the gaussian of each image: its label, or 0 if the prior uses no labels."""
    return labels if config.entry.labelled else torch.zeros_like(labels)


@torch.no_grad()
def class_statistics(
    flow: Flow,
    data: Batches,
    order: Tensor,
    num_classes: int,
    *,
    batch_size: int,
    generator: torch.Generator,
    progress: bool = False,
    processes: Processes | None = None,
) -> ClassStatistics:
    """Statistics of the latents of the images with indices `order`, with dequantisation noise.

    `processes` share the images and combine their statistics with one all-reduce.
    """
    device = generator.device
    # Apple's GPUs have no float64.
    stats = ClassStatistics(num_classes, flow.config.dim, None if device.type == "mps" else device)
    frozen = flow.freeze()
    with progress_bar(len(order), "gaussians", "image", shown=progress) as bar:
        for shard in shared_batches(data, order, batch_size, processes):
            noise = draw_noise(frozen, shard.total, generator)[shard.part]
            if shard.weight:
                stats.update(frozen.encode(shard.images.to(device), noise)[0], shard.labels)
            bar.update(shard.total)
    if processes is not None and processes.count > 1:
        stats.all_reduce()
    return stats


def representative(
    labels: Tensor, num_classes: int, most: int, generator: torch.Generator
) -> Tensor:
    """Indices of at most `most` random images, plus as many as give every class two."""
    order = torch.randperm(len(labels), generator=generator)[:most]
    chosen = torch.bincount(labels[order], minlength=num_classes)
    for y in (chosen < 2).nonzero().flatten().tolist():
        rows = (labels == y).nonzero().flatten()
        order = torch.cat([order, rows[~torch.isin(rows, order)][: 2 - int(chosen[y])]])
    return order
