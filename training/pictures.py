"""Pictures of a run: samples while it trains, and its latents and gaussians at the end."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfaug.augment.preview import picture_grid, sample_images
from nfaug.classes.fixed_point.solver import FixedPointConfig, FixedPointDivergence, solve
from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import open_batches
from nfaug.data.images import LabelledImages
from nfaug.fitting import encode_with_noise
from nfaug.io.text import printable

from .run.context import RunContext, TrainResult
from .run.snapshots import RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["embedding_panels", "figure_image", "kl_heatmaps", "progress_picture", "run_figures"]

_CLASSES, _PER_CLASS = 10, 200  # limits of the pictures of latents
_COLUMNS = 6  # samples per class in the progress picture
_MAX_LABEL = 40  # characters of a class name
# Paul Tol's muted palette, safe for colour-blind readers.
_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip
_MARKERS = "osv^Dx+P*<"


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


def run_figures(result: TrainResult, dataset: LabelledImages) -> dict[str, Figure]:
    """Draw the figures of a run with classes: "latents" and "kl".

    "latents" has the four panels of the paper's Figure 1: the latents of the initialised flow, and
    samples of the gaussians estimated from them and of the fixed point (means and covariances, the
    released update) at a fiftieth of the run's weight c and at c. "kl" shows the pairwise
    divergences of these gaussians. Up to 10 classes of 200 images are used; a single class has no
    figures.
    """
    if result.initial is None or len(dataset.classes) < 2:
        return {}
    latents, labels = _latents(result, dataset)
    names = dataset.classes[:_CLASSES]
    stats = ClassStatistics(len(names), latents.shape[1])
    stats.update(latents, labels)
    counts, means, variances = stats.finalize()
    panels = {"gaussians of the data": ClassGaussians(means, variances, counts)}
    used = result.checkpoint.config.gaussians.get("kld_weight")
    largest = FixedPointConfig().weight(*means.shape) if used is None else float(used)
    for weight in (largest / 50, largest):
        try:
            solved = solve(means, variances, FixedPointConfig(fit="both", kld_weight=weight))
        except FixedPointDivergence:
            continue  # the run itself may use another update
        title = f"fixed point, c = {weight:g}"
        panels[title] = ClassGaussians(solved.means, solved.variances, counts)
    figure = embedding_panels(latents, labels, panels, class_names=names)
    return {"latents": figure, "kl": kl_heatmaps(panels)}


@torch.no_grad()
def _latents(result: TrainResult, dataset: LabelledImages) -> tuple[Tensor, Tensor]:
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


def embedding_panels(
    latents: Tensor,
    labels: Tensor,
    gaussians: Mapping[str, ClassGaussians],
    *,
    class_names: Sequence[str],
    per_class: int = 40,
    seed: int = 0,
) -> Figure:
    """Embed latents, and samples of each set of gaussians, in one panel each (paper, Figure 1).

    `per_class` points of each class are drawn, and `class_names` are the legend.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = range(len(class_names))
    chosen = torch.cat([(labels == y).nonzero().flatten()[:per_class] for y in classes])
    panels = {"latents of the data": (latents[chosen].cpu(), labels[chosen].cpu())}
    drawn = torch.arange(len(class_names)).repeat_interleave(per_class)
    for title, fitted in gaussians.items():
        panels[title] = (fitted.sample(drawn, generator=generator).cpu(), drawn)
    figure = _figure(len(panels))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, (points, owners)) in zip(axes, panels.items(), strict=True):
        spots = _embed(points, seed).numpy()
        for y in classes:
            here = spots[(owners == y).numpy()]
            # Matplotlib would read $...$ as mathematics.
            name = printable(class_names[y], longest=_MAX_LABEL).replace("$", r"\$")
            colour, marker = _COLOURS[y % len(_COLOURS)], _MARKERS[y % len(_MARKERS)]
            axis.scatter(
                here[:, 0], here[:, 1], s=8, label=name, color=colour, marker=marker, linewidths=0.8
            )
        axis.set(title=title, xticks=[], yticks=[])
    longest = min(_MAX_LABEL, max(map(len, class_names)))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 0.08 * longest, height)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small"
    )
    return figure


def _embed(points: Tensor, seed: int) -> Tensor:
    """Embed points (N, d) in the plane by t-SNE (van der Maaten & Hinton 2008), after PCA to 50."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = points.double().numpy()
    if values.shape[1] > 50:
        values = PCA(min(50, len(values)), svd_solver="full").fit_transform(values)
    perplexity = min(30.0, (len(points) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return torch.from_numpy(model.fit_transform(values))


def kl_heatmaps(gaussians: Mapping[str, ClassGaussians]) -> Figure:
    """Pairwise KL in nats, one panel with its own scale per set of gaussians."""
    figure = _figure(len(gaussians))
    axes = figure.subplots(1, len(gaussians), squeeze=False)[0]
    for axis, (title, fitted) in zip(axes, gaussians.items(), strict=True):
        image = axis.imshow(fitted.pairwise_kl().cpu().numpy(), cmap="viridis")
        ticks = range(fitted.num_classes)  # matplotlib puts half-integer ticks between few classes
        axis.set(title=title, xlabel="y'", ylabel="y", xticks=ticks, yticks=ticks)
        figure.colorbar(image, ax=axis, label="KL(y || y'), nats", shrink=0.8)
    return figure


def _figure(columns: int) -> Figure:
    from matplotlib.figure import Figure

    # No pyplot: no global state, no display, nothing to close.
    return Figure(figsize=(3.6 * columns, 3.4), layout="constrained", dpi=110)


def figure_image(figure: Figure) -> Image.Image:
    """Render a figure; a character that matplotlib's font lacks becomes a box without a warning."""
    from PIL import Image

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png")
    return Image.open(buffer)
