"""The pictures of a run: where latents lie, what the fixed point does to them, how it converged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..atomic import write_bytes
from ..batches import open_batches
from ..fitting import encode_with_noise
from ..fixed_point import FixedPointConfig, FixedPointDivergence, FixedPointStep, solve
from ..gaussians import ClassGaussians
from ..statistics import ClassStatistics
from .images import LabelledImages
from .plots import convergence_curves, embedding_panels, kl_heatmaps, loss_curve
from .trainer import TrainResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run_figures", "save_figures"]

_CLASSES, _PER_CLASS = 10, 200  # what the pictures of latents are made from, at most


def run_figures(
    result: TrainResult, dataset: LabelledImages, *, weights: tuple[float, float] | None = None
) -> dict[str, Figure]:
    """Figures of a run by name: "loss" and, with classes, "latents", "kl" and "convergence".

    "latents" are the four panels of the paper's Figure 1: the latents of the initialised flow,
    samples of the gaussians estimated from them, and of the fixed point (means and covariances,
    as released) at a small and a large weight c; "kl" their pairwise divergences; "convergence"
    the residuals of the two solves. `weights` are the two c; by default a fiftieth of the run's
    own weight, and that weight. Up to 10 classes and 200 images of each are used.
    """
    figures = {"loss": loss_curve(result.loss, result.history)}
    if result.initial is None or len(dataset.classes) < 2:
        return figures
    latents, labels = _latents(result, dataset)
    names = dataset.classes[:_CLASSES]
    stats = ClassStatistics(len(names), latents.shape[1])
    stats.update(latents, labels)
    counts, means, variances = stats.finalize(class_names=names)
    panels = {"gaussians of the data": ClassGaussians(means, variances, counts)}
    histories: dict[str, list[FixedPointStep]] = {}
    for weight in weights or _weights(result, *means.shape):
        title = f"fixed point, c = {weight:g}"
        try:
            solved = solve(means, variances, FixedPointConfig(fit="both", kld_weight=weight))
        except FixedPointDivergence:
            continue  # no gaussians to show; the run itself may use another rule
        panels[title] = ClassGaussians(solved.means, solved.variances, counts)
        histories[title] = solved.history
    figures["latents"] = embedding_panels(latents, labels, panels, class_names=names)
    figures["kl"] = kl_heatmaps(panels)
    if histories:
        figures["convergence"] = convergence_curves(histories)
    return figures


def save_figures(figures: dict[str, Figure], folder: Path, *, tensorboard: bool = False) -> None:
    """Write every figure as NAME.png, and into TensorBoard event files if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.png", _png(figure))
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for name, figure in figures.items():
                writer.add_figure(name, figure, close=False)


def _png(figure: Figure) -> bytes:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # TensorBoard reads the canvas
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
