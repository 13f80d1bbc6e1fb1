"""The class gaussians that a flow is trained under, found from its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.batches import Batches, progress_bar
from ...fitting import solve_record
from ...flows.flow import Flow
from ...gaussians.baselines import gradient_descent, random_gaussians
from ...gaussians.fixed_point.solver import solve
from ...gaussians.gaussians import ClassGaussians
from ...gaussians.statistics import ClassStatistics
from ..config import PriorConfig
from .distributed import Processes, whole_batches

__all__ = ["check_prior", "class_statistics", "prior_labels", "solve_prior"]


def check_prior(config: PriorConfig, num_classes: int) -> None:
    """Refuse a prior that needs classes to push apart where there is one.

    Raises:
        ValueError: says which would do.
    """
    if config.kind in ("fpi", "gradient") and num_classes < 2:
        raise ValueError(
            f"prior.kind {config.kind!r} pushes classes apart and the data have {num_classes}; "
            "set prior.kind to 'single'"
        )


def prior_labels(config: PriorConfig, labels: Tensor) -> Tensor:
    """The labels by which the prior tells images apart: all 0 for a single gaussian."""
    return torch.zeros_like(labels) if config.kind == "single" else labels


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
    """Gaussians under the flow as it is, and a record of how they were found.

    `generator` draws dequantisation noise and decides the device; `choice`, on the CPU, draws
    images and random means. Warns where the fixed point did not converge. `processes` share the
    encoding, and each gets the same gaussians.

    Raises:
        ValueError: a latent is not finite.
        FixedPointDivergence: see `nfaug.gaussians.fixed_point.solver.solve`.
    """
    dim = flow.config.dim
    settings: dict[str, Any] = {"kind": config.kind}
    if config.kind == "single":
        return ClassGaussians(torch.zeros(1, dim), torch.ones(1, dim)), settings
    counts = torch.bincount(data.labels, minlength=len(classes))
    if config.kind == "random":
        means, variances = random_gaussians(
            len(classes), dim, scale=config.random_scale, generator=choice
        )
        settings["scale"] = config.random_scale
        return ClassGaussians(means, variances, counts), settings
    order = _representative(data.labels, len(classes), config.statistics_images, choice)
    stats = class_statistics(
        flow,
        data,
        order,
        len(classes),
        batch_size=batch_size,
        generator=generator,
        progress=progress,
        processes=processes,
    )
    _, means, variances = stats.finalize(class_names=classes)
    if config.kind == "data":
        return ClassGaussians(means, variances, counts), settings
    if config.kind == "fpi":
        result = solve(means, variances, config.fixed_point)
        settings |= solve_record(config.fixed_point, result)
    else:
        result = gradient_descent(means, variances, config.gradient)
        settings |= solve_record(config.gradient, result)
    gaussians = ClassGaussians(result.means, result.variances, counts)
    if processes is not None and processes.count > 1:  # machines may round differently
        gaussians.to(processes.device)
        processes.broadcast(gaussians.buffers())
    return gaussians, settings


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
    """Statistics of the latents of the images `order`, under dequantisation noise.

    `processes` share the images, combine what they found by one all-reduce, and have the whole.
    """
    device = generator.device
    stats = ClassStatistics(num_classes, flow.config.dim, _float64(device))
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
    """Rows of at most `most` images drawn at random, and two of every class however rare."""
    order = torch.randperm(len(labels), generator=generator)[:most]
    chosen = torch.bincount(labels[order], minlength=num_classes)
    for y in (chosen < 2).nonzero().flatten().tolist():
        rows = (labels == y).nonzero().flatten()
        order = torch.cat([order, rows[~torch.isin(rows, order)][: 2 - int(chosen[y])]])
    return order


def _float64(device: torch.device) -> torch.device | None:
    """The device, or the CPU where that has no float64, in which sums are kept: Apple's GPUs."""
    return None if device.type == "mps" else device
