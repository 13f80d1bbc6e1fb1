"""The demo's report: a table, a plot of the gains, and what the pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.intervals import Interval, interval
from .comparison import ARMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gains", "gains_figure", "report"]

Scores = Sequence[Mapping[str, float]]  # accuracy of each arm, one item per seed


def gains(scores: Scores) -> dict[str, Interval]:
    """The gain of each arm over no augmentation, within seeds."""
    return {
        arm: interval([score[arm] - score["none"] for score in scores])
        for arm in ARMS
        if arm != "none"
    }


def gains_figure(scores: Mapping[int, Scores]) -> Figure:
    """Gains and their 95% intervals, one panel for each number of labels per class."""
    from matplotlib.figure import Figure

    arms = [arm for arm in ARMS if arm != "none"]
    figure = Figure(figsize=(3.2 + 3 * len(scores), 2.8), layout="constrained")
    axes = figure.subplots(1, len(scores), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (number, found) in zip(axes, scores.items(), strict=True):
        for row, (arm, gain) in enumerate(gains(found).items()):
            half = gain.half if gain.seeds > 1 else 0.0
            colour = {"flow": "tab:red", "pixels": "tab:blue"}.get(ARMS[arm].flow, "tab:gray")
            axis.errorbar(gain.mean, row, xerr=half, fmt="o", color=colour, capsize=3)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
        axis.set_xlabel("gain in accuracy, points (95% interval)", fontsize=8)
        axis.set_title(f"{number} labels per class", fontsize=10)
    axes[0].invert_yaxis()
    return figure


def report(
    result: Mapping[str, Any],
    scores: Mapping[int, Scores],
    *,
    train_size: int,
    test_size: int,
    p: float,
    steps: int,
) -> str:
    """The report in Markdown."""
    header = " | ".join(f"{number} labels per class" for number in scores)
    rows = [
        f"| {arm.title} | {' | '.join(_cell(found, name) for found in scores.values())} |"
        for name, arm in ARMS.items()
    ]
    seeds = len(next(iter(scores.values())))
    table = "\n".join(rows)
    return f"""# NFA on handwritten digits

scikit-learn's digits: {train_size} training and {test_size} test images, 8 x 8, 10 classes. \
Took {result["seconds"]:.0f} s.

## Does it help here?

![gains and their intervals](gains.png)

{_verdict(scores)}

| | {header} |
|---|{"---|" * len(scores)}
{table}

Test accuracy of a small CNN ({steps} steps) in per cent, averaged over {seeds} seeds. In \
brackets, the gain over no augmentation: mean within seeds and half-width of its 95% interval. The \
flow saw all {train_size} training images without labels. The class gaussians, axes and partners \
of NFA come from the labelled images alone. A variant replaces an image with probability {p:g}. \
All arms of a seed share the labelled images, the initial weights and the order of the images. \
Shifts move an image by up to one pixel; digits bear no flips. Nothing was tuned.

## The bundled colour flow

Crops of two photographs, without training: `builtin:rgb32` fitted to them in one pass. Originals, \
their reconstructions, and variants mixed with other crops of the same photograph:

![colour images, reconstructions and variants](colour.png)

## What the flow of digits does

![originals, reconstructions and variants](grid.png)

Bits per dimension during training:

![loss](loss.png)

Its latents before training, and samples of class gaussians: estimated from these latents, and \
after the fixed point with a small and a large weight (t-SNE, as in the paper's Figure 1):

![latents and gaussians](latents.png)

Pairwise divergence of the gaussians:

![pairwise KL](kl.png)

Convergence of the fixed point:

![residual against iteration](convergence.png)

The checkpoint is in `flow/`: try `nfaug info flow`.
"""


def _cell(scores: Scores, arm: str) -> str:
    mean = sum(score[arm] for score in scores) / len(scores)
    return f"{mean:.1f}" if arm == "none" else f"{mean:.1f} ({gains(scores)[arm].shown('+')})"


def _verdict(scores: Mapping[int, Scores]) -> str:
    """What the intervals say about NFA with the flow, in words."""
    lines = []
    for number, found in scores.items():
        alone = gains(found)["flow"]
        added = interval([score["shift+flow"] - score["shift"] for score in found])
        rival = interval([score["flow"] - score["pixels"] for score in found])
        lines.append(
            f"With {number} labels per class, NFA with the flow changed accuracy by {_said(alone)} "
            f"by itself, and by {_said(added)} on top of shifts. Its difference to NFA without a "
            f"flow was {_said(rival)}."
        )
    return "\n\n".join(lines)


def _said(gain: Interval) -> str:
    known = "" if gain.clear else " (the interval includes zero)"
    return f"**{gain.shown('+')}** points{known}"
