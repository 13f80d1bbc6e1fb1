"""Matplotlib figures of latents, gaussians and runs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nfaug.classes.fixed_point.solver import FixedPointStep
from nfaug.classes.gaussians import ClassGaussians
from nfaug.io.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = [
    "convergence_curves",
    "embedding_panels",
    "figure_image",
    "kl_heatmaps",
    "loss_curve",
]

# Paul Tol's muted palette, safe for colour-blind readers.
_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip
_MARKERS = "osv^Dx+P*<"
_MAX_LABEL = 40  # characters of a class name
# Fonts for what matplotlib's own font lacks, used where they are installed.
_FALLBACKS = ("Noto Sans CJK JP", "IPAGothic", "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic",
              "Microsoft YaHei", "Arial Unicode MS", "Noto Emoji", "Segoe UI Symbol")  # fmt: skip


def figure_image(figure: Figure) -> Image.Image:
    """Render a figure; a character that no installed font has becomes a box, without a warning."""
    from matplotlib import font_manager
    from matplotlib.text import Text
    from PIL import Image

    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FALLBACKS if name in installed)]
    for label in figure.findobj(Text):
        assert isinstance(label, Text)
        label.set_fontfamily(fonts)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _look(y: int) -> dict[str, Any]:
    """Colour and marker of class y."""
    return {
        "color": _COLOURS[y % len(_COLOURS)],
        "marker": _MARKERS[y % len(_MARKERS)],
        "linewidths": 0.8,
    }


def _figure(columns: int, width: float = 3.2, height: float = 3.2) -> Figure:
    from matplotlib.figure import Figure

    # No pyplot: no global state, no display, nothing to close.
    return Figure(figsize=(columns * width, height), layout="constrained", dpi=110)


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


def embedding_panels(
    latents: Tensor,
    labels: Tensor,
    gaussians: Mapping[str, ClassGaussians],
    *,
    class_names: Sequence[str] = (),
    per_class: int = 40,
    seed: int = 0,
) -> Figure:
    """Embed latents, and samples of each set of gaussians, in one panel each (paper, Figure 1).

    `per_class` points of each class are drawn, and `class_names` are the legend.
    """
    generator = torch.Generator().manual_seed(seed)
    num_classes = int(labels.max()) + 1
    chosen = torch.cat([(labels == y).nonzero().flatten()[:per_class] for y in range(num_classes)])
    panels = {"latents of the data": (latents[chosen].cpu(), labels[chosen].cpu())}
    drawn = torch.arange(num_classes).repeat_interleave(per_class)
    for title, fitted in gaussians.items():
        panels[title] = (fitted.sample(drawn, generator=generator).cpu(), drawn)
    figure = _figure(len(panels))
    for axis, (title, (points, classes)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        spots = _embed(points, seed).numpy()
        for y in range(num_classes):
            here = spots[(classes == y).numpy()]
            name = class_names[y] if y < len(class_names) else str(y)
            axis.scatter(here[:, 0], here[:, 1], s=8, label=_plain(name), **_look(y))
        axis.set(title=title, xticks=[], yticks=[])
    if num_classes <= 12:
        longest = max((len(name) for name in class_names[:num_classes]), default=1)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width + 0.08 * min(longest, _MAX_LABEL), height)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside right center",
            fontsize="small",
            markerscale=2,
        )
    return figure


def kl_heatmaps(gaussians: Mapping[str, ClassGaussians]) -> Figure:
    """Pairwise KL in nats, one panel with its own scale per set of gaussians."""
    figure = _figure(len(gaussians), 3.6)
    for axis, (title, fitted) in zip(
        figure.subplots(1, len(gaussians), squeeze=False)[0], gaussians.items(), strict=True
    ):
        image = axis.imshow(fitted.pairwise_kl().cpu().numpy(), cmap="viridis")
        axis.set(title=title, xlabel="y'", ylabel="y")
        if fitted.num_classes <= 12:  # matplotlib puts half-integer ticks between few classes
            axis.set(xticks=range(fitted.num_classes), yticks=range(fitted.num_classes))
        figure.colorbar(image, ax=axis, label="KL(y || y'), nats", shrink=0.8)
    return figure


def convergence_curves(histories: Mapping[str, Sequence[FixedPointStep]]) -> Figure:
    """Residual of the fixed point against the iteration, one curve per solve."""
    figure = _figure(1, 4.5)
    axis = figure.subplots()
    for number, (title, steps) in enumerate(histories.items()):
        axis.plot(
            [step.iteration for step in steps],
            [step.residual for step in steps],
            label=title,
            color=_COLOURS[2 * number % len(_COLOURS)],
            linestyle=("-", "--", ":", "-.")[number % 4],
        )
    axis.set(xlabel="iteration", ylabel="residual (L2, latent units)", yscale="log")
    axis.legend(fontsize="small")
    return figure


def loss_curve(loss: Sequence[float], history: Sequence[Mapping[str, float]] = ()) -> Figure:
    """Bits per dimension of every step, and of held-out images if `history` has any."""
    figure = _figure(1, 4.5)
    axis = figure.subplots()
    axis.plot(range(1, len(loss) + 1), loss, linewidth=0.7, label="training step")
    names = ("bits_per_dim", "latent_bits_per_dim")
    held = [(row["step"], row[name]) for row in history for name in names if name in row]
    if held:
        axis.plot(*zip(*held, strict=True), label="held-out images, averaged weights")
    axis.set(xlabel="step", ylabel="bits per dimension")
    if loss:  # the large values of the first steps would flatten the rest
        low, high = min(loss), sorted(loss)[int(0.95 * (len(loss) - 1))]
        axis.set_ylim(low - 0.1, high + 0.1)
    axis.legend(fontsize="small")
    return figure


def _plain(name: str) -> str:
    """Escape a class name: matplotlib would read $...$ as mathematics."""
    return printable(name, longest=_MAX_LABEL).replace("$", r"\$")
