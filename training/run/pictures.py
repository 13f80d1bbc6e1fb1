"""Pictures of a run: samples, NFA variants, latents, gaussians and convergence."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...augment.preview import picture_grid, preview_grid, sample_images
from ...checkpoint.checkpoint import Checkpoint
from ...data.batches import open_batches
from ...data.images import LabelledImages, TensorImages
from ...fitting import encode_with_noise, fit_classes
from ...gaussians.fixed_point.solver import (
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointStep,
    solve,
)
from ...gaussians.gaussians import ClassGaussians
from ...gaussians.statistics import ClassStatistics
from ..report.plots import convergence_curves, embedding_panels, kl_heatmaps, loss_curve, save
from .context import RunContext, TrainResult
from .snapshots import RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["figure_image", "progress_pictures", "run_figures"]

_CLASSES, _PER_CLASS = 10, 200  # limits of the pictures of latents
_COLUMNS, _AXES, _FEW = 6, 16, 40  # samples, PCA axes and images per class in progress pictures


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


def figure_image(figure: Figure) -> Image.Image:
    """Render a figure."""
    from PIL import Image

    buffer = io.BytesIO()
    save(figure, buffer, format="png")
    return Image.open(buffer)


@torch.no_grad()
def progress_pictures(context: RunContext, state: RunState) -> dict[str, Image.Image]:
    """Draw a running flow: samples and, with classes, NFA variants, an embedding and pairwise KL.

    Uses the averaged weights and at most 10 classes, and none of the run's generators.
    """
    flow, dataset = state.optimizer.average, context.dataset
    gaussians = _first(state.gaussians)
    names = [*context.classes][:_CLASSES] or ["all"]
    device = context.processes.device
    labels = torch.arange(gaussians.num_classes, device=device).repeat_interleave(_COLUMNS)
    generator = torch.Generator(device).manual_seed(context.config.seed)
    samples = sample_images(flow, gaussians, labels, generator=generator).cpu()
    table = samples.unflatten(0, (-1, _COLUMNS))
    pictures = {"progress_samples": picture_grid(table, [""] * _COLUMNS, names)}
    if gaussians.num_classes < 2:
        return pictures
    rows = [(dataset.targets == y).nonzero().flatten()[:_FEW] for y in range(len(names))]
    images = torch.stack([dataset[index][0] for index in torch.cat(rows).tolist()])
    few = TensorImages(images, dataset.targets[torch.cat(rows)], names)
    rank = max(1, min(_AXES, min(map(len, rows)) - 1))
    settings: dict[str, Any] = {"rank": rank, "max_per_class": _FEW, "memory": True}
    _, pca = fit_classes(flow, open_batches(few), names, **settings, progress=False)
    config = replace(context.checkpoint(flow, state).config, class_names=tuple(names))
    preview = preview_grid(Checkpoint(flow, config, gaussians, pca), few)
    z, _ = encode_with_noise(flow, images.to(device), generator)
    panels = {"samples of the gaussians": gaussians.to("cpu")}
    embedding = embedding_panels(z.flatten(1).cpu(), few.targets, panels, class_names=names)
    return pictures | {
        "progress_nfa": preview,
        "progress_latents": figure_image(embedding),
        "progress_kl": figure_image(kl_heatmaps({"pairwise KL": gaussians})),
    }


def _first(gaussians: ClassGaussians) -> ClassGaussians:
    """Copy the gaussians of the first classes."""
    parts = (gaussians.means, gaussians.variances, gaussians.counts)
    return ClassGaussians(*(part[:_CLASSES] for part in parts))


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
