"""Pictures of latents, gaussians and runs. Every function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...gaussians.fixed_point.solver import FixedPointStep
from ...gaussians.gaussians import ClassGaussians

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["convergence_curves", "embedding_panels", "kl_heatmaps", "loss_curve"]


# Told apart with any kind of colour vision, the more so with a marker each.
_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777",
)  # fmt: skip
_MARKERS = "osv^Dx+P*<"


def _look(y: int) -> dict[str, Any]:
    """Colour and marker of a class."""
    return {
        "color": _COLOURS[y % len(_COLOURS)],
        "marker": _MARKERS[y % len(_MARKERS)],
        "linewidths": 0.8,
    }


def _figure(columns: int, width: float = 3.2, height: float = 3.2) -> Figure:
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no display, nothing to close.
    return Figure(figsize=(columns * width, height), layout="constrained", dpi=110)


def _embed(points: Tensor, seed: int) -> Tensor:
    """Two dimensions by t-SNE (van der Maaten & Hinton 2008), after PCA to 50."""
    from sklearn.manifold import TSNE

    centred = points.double() - points.double().mean(0)
    if centred.shape[1] > 50:
        # All of it, because the randomised kind draws from torch's global generator.
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        centred = left[:, :50] * values[:50]
    perplexity = min(30.0, (len(points) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return torch.from_numpy(model.fit_transform(centred.numpy()))


def embedding_panels(
    latents: Tensor,
    labels: Tensor,
    gaussians: Mapping[str, ClassGaussians],
    *,
    class_names: Sequence[str] = (),
    per_class: int = 40,
    seed: int = 0,
) -> Figure:
    """The paper's Figure 1: an embedding of the latents, then of samples of each set of gaussians.

    `latents` is (N, d) with `labels` (N,); `gaussians` maps a panel's title to class gaussians.
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
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside right center",
            fontsize="small",
            markerscale=2,
        )
    return figure


def kl_heatmaps(gaussians: Mapping[str, ClassGaussians]) -> Figure:
    """Pairwise KL in nats, one panel a set of gaussians, each with its own scale."""
    figure = _figure(len(gaussians), 3.6)
    for axis, (title, fitted) in zip(
        figure.subplots(1, len(gaussians), squeeze=False)[0], gaussians.items(), strict=True
    ):
        image = axis.imshow(fitted.pairwise_kl().cpu().numpy(), cmap="viridis")
        axis.set(title=title, xlabel="y'", ylabel="y")
        if fitted.num_classes <= 12:  # else matplotlib's own, with halves between few classes
            axis.set(xticks=range(fitted.num_classes), yticks=range(fitted.num_classes))
        figure.colorbar(image, ax=axis, label="KL(y || y'), nats", shrink=0.8)
    return figure


def convergence_curves(histories: Mapping[str, Sequence[FixedPointStep]]) -> Figure:
    """Residual of the fixed point against the iteration, one curve a solve."""
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
    """Bits per dimension of every step, and of the held-out images where there are any."""
    figure = _figure(1, 4.5)
    axis = figure.subplots()
    axis.plot(range(1, len(loss) + 1), loss, linewidth=0.7, label="training step")
    names = ("bits_per_dim", "latent_bits_per_dim")
    held = [(row["step"], row[name]) for row in history for name in names if name in row]
    if held:
        axis.plot(*zip(*held, strict=True), label="held-out images, averaged weights")
    axis.set(xlabel="step", ylabel="bits per dimension")
    if loss:  # the first steps would make the rest a flat line
        low, high = min(loss), sorted(loss)[int(0.95 * (len(loss) - 1))]
        axis.set_ylim(low - 0.1, high + 0.1)
    axis.legend(fontsize="small")
    return figure


def _plain(text: str) -> str:
    """Class names may be anybody's text: matplotlib would read $...$ as mathematics."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")[:24]
