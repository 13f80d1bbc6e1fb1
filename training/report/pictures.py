"""Pictures of a run: samples, latents, gaussians and convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nfaug.augment.preview import picture_grid, sample_images
from nfaug.classes.fixed_point.solver import (
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointStep,
    solve,
)
from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import open_batches
from nfaug.data.images import LabelledImages
from nfaug.fitting import encode_with_noise

from ..run.context import RunContext, TrainResult
from ..run.snapshots import RunState
from .plots import convergence_curves, embedding_panels, kl_heatmaps, loss_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["progress_picture", "run_figures"]

_CLASSES, _PER_CLASS = 10, 200  # limits of the pictures of latents
_COLUMNS = 6  # samples per class in the progress picture


def run_figures(
    result: TrainResult, dataset: LabelledImages, *, weights: tuple[float, float] | None = None
) -> dict[str, Figure]:
    """Draw the figures of a run: "loss" and, with classes, "latents", "kl" and "convergence".

    "latents" has the four panels of the paper's Figure 1: the latents of the initialised flow, and
    samples of the gaussians estimated from them and of the fixed point (means and covariances, the
    released update) at a small and a large weight c. "kl" shows the pairwise divergences of these
    gaussians, "convergence" the residuals of the two solves. Up to 10 classes of 200 images are
    used.

    Args:
        result: A finished run.
        dataset: Its images.
        weights: The two values of c; by default a fiftieth of the run's weight, and that weight.

    Returns:
        Figures by name.
    """
    figures = {"loss": loss_curve(result.loss, result.history)}
    if result.initial is None or len(dataset.classes) < 2:
        return figures
    latents, labels = _latents(result, dataset)
    names = dataset.classes[:_CLASSES]
    stats = ClassStatistics(len(names), latents.shape[1])
    stats.update(latents, labels)
    counts, means, variances = stats.finalize(class_names=names, pool_single=True)
    panels = {"gaussians of the data": ClassGaussians(means, variances, counts)}
    histories: dict[str, list[FixedPointStep]] = {}
    for weight in weights or _weights(result, *means.shape):
        title = f"fixed point, c = {weight:g}"
        try:
            solved = solve(means, variances, FixedPointConfig(fit="both", kld_weight=weight))
        except FixedPointDivergence:
            continue  # the run itself may use another update
        panels[title] = ClassGaussians(solved.means, solved.variances, counts)
        histories[title] = solved.history
    figures["latents"] = embedding_panels(latents, labels, panels, class_names=names)
    figures["kl"] = kl_heatmaps(panels)
    if histories:
        figures["convergence"] = convergence_curves(histories)
    return figures


@torch.no_grad()
def progress_picture(context: RunContext, state: RunState) -> Image.Image:
    """Samples of a running flow: a row for each of the first 10 classes.

    Uses the averaged weights and none of the run's generators.
    """
    names = [*context.classes][:_CLASSES] or ["all"]
    device = context.processes.device
    labels = torch.arange(len(names), device=device).repeat_interleave(_COLUMNS)
    generator = torch.Generator(device).manual_seed(context.config.seed)
    samples = sample_images(state.optimizer.average, state.gaussians, labels, generator=generator)
    return picture_grid(samples.cpu().unflatten(0, (-1, _COLUMNS)), [""] * _COLUMNS, names)


@torch.no_grad()
def _latents(result: TrainResult, dataset: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    assert result.initial is not None
    flow = result.initial.flow.freeze()
    classes = range(min(_CLASSES, len(dataset.classes)))
    rows = torch.cat([(dataset.targets == y).nonzero().flatten()[:_PER_CLASS] for y in classes])
    chosen = dataset.subset(rows)
    generator = torch.Generator(flow.device).manual_seed(0)
    latents, labels = [], []
    for images, batch in open_batches(chosen).iterate(torch.arange(len(chosen)), 256):
        z, _ = encode_with_noise(flow, images.to(flow.device), generator)
        latents.append(z.flatten(1).cpu())
        labels.append(batch)
    return torch.cat(latents), torch.cat(labels)


def _weights(result: TrainResult, num_classes: int, dim: int) -> tuple[float, float]:
    weight = result.checkpoint.config.gaussians.get("kld_weight")
    weight = FixedPointConfig().weight(num_classes, dim) if weight is None else float(weight)
    return weight / 50, weight
