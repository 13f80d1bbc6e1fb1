"""Solving for the class gaussians that a flow is trained under."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.priors import PRIORS
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import Batches, progress_bar
from nfaug.flows.flow import Flow

from ..config import PriorConfig
from .distributed import Processes, whole_batches

__all__ = ["check_prior", "class_statistics", "prior_labels", "solve_prior"]


def check_prior(config: PriorConfig, num_classes: int) -> None:
    """Check that the data have as many classes as the prior needs.

    Raises:
        ValueError: If there are fewer.
    """
    if num_classes < config.entry.min_classes:
        others = [repr(kind) for kind, prior in PRIORS.items() if not prior.labelled]
        raise ValueError(
            f"prior.kind {config.kind!r} needs at least {config.entry.min_classes} classes, the "
            f"data have {num_classes}; set prior.kind to {' or '.join(others)}"
        )


def prior_labels(config: PriorConfig, labels: Tensor) -> Tensor:
    """The index of the gaussian of each image: its label, or 0 if the prior uses no labels."""
    return labels if config.entry.labelled else torch.zeros_like(labels)


def solve_prior(
    config: PriorConfig,
    flow: Flow,
    data: Batches,
    classes: Sequence[str],
    *,
    batch_size: int,
    generator: torch.Generator,
    choice: torch.Generator,
    progress: bool = False,
    processes: Processes | None = None,
) -> tuple[ClassGaussians, dict[str, Any]]:
    """Encode images if the prior needs it, and find the class gaussians.

    `generator` draws the dequantisation noise on its device, which encodes; `choice` draws images
    and random means on the CPU. `processes` share the encoding and all get the same gaussians.

    Returns:
        The gaussians, and the record of the solve for the checkpoint.

    Raises:
        ValueError: If a latent is not finite.
        FixedPointDivergence: If a gaussian leaves the range of positive finite numbers.
    """
    prior, record = config.entry, {"kind": config.kind}
    counts, number = None, 1
    if prior.labelled:
        counts, number = torch.bincount(data.labels, minlength=len(classes)), len(classes)
    means = torch.zeros(number, flow.config.dim)
    variances = torch.ones_like(means)
    if prior.needs_latents:
        stats = class_statistics(
            flow,
            data,
            _representative(data.labels, len(classes), config.statistics_images, choice),
            len(classes),
            batch_size=batch_size,
            generator=generator,
            progress=progress,
            processes=processes,
        )
        _, means, variances = stats.finalize(class_names=classes, pool_single=True)
    means, variances, outcome = prior.solve(means, variances, config.settings, choice)
    gaussians = ClassGaussians(means, variances, counts)
    if processes is not None:  # machines may round differently
        gaussians.to(processes.device)
        processes.broadcast(gaussians.buffers())
    return gaussians, {**record, **outcome}


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
    passes = whole_batches(frozen, data, order, batch_size, generator, processes)
    with progress_bar(len(order), "gaussians", "image", shown=progress) as bar:
        for noise, batch in passes:
            if batch is not None:
                images, labels = batch
                stats.update(frozen.encode(images.to(device), noise)[0], labels)
            bar.update(len(noise))
    if processes is not None and processes.count > 1:
        stats.all_reduce()
    return stats


def _representative(
    labels: Tensor, num_classes: int, most: int, generator: torch.Generator
) -> Tensor:
    """Indices of at most `most` random images, plus as many as give every class two."""
    order = torch.randperm(len(labels), generator=generator)[:most]
    chosen = torch.bincount(labels[order], minlength=num_classes)
    for y in (chosen < 2).nonzero().flatten().tolist():
        rows = (labels == y).nonzero().flatten()
        order = torch.cat([order, rows[~torch.isin(rows, order)][: 2 - int(chosen[y])]])
    return order
