"""Draw docs/explanation/separation.png: the paper's Figure 1 in two dimensions.

    python lab/separation.py           # draw it
    python lab/separation.py --check   # exit with 1 if the picture is of other Gaussians

Points of five classes, of which neighbours overlap; the Gaussians of the points; and the Gaussians
of the fixed point, for a small and a large weight. It takes seconds. The Gaussians are written into
the PNG file as text, which is what --check compares: another version of matplotlib draws the same
Gaussians in other bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib import pyplot
from matplotlib.patches import Ellipse
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from nfaug.classes.fixed_point import FixedPointConfig, solve
from nfaug.classes.gaussians import pairwise_kl

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "separation.png"
PNG_TEXT = "gaussians"
POINTS = 120  # of a class
WEIGHTS = (2.0, 20.0)
#: Mean and standard deviation of each class, (x, y).
CLASSES = (
    ((-2.2, -0.9), (0.9, 0.6)),
    ((-1.2, 0.3), (0.7, 0.7)),
    ((0.0, 0.9), (0.8, 0.5)),
    ((1.2, 0.3), (0.6, 0.8)),
    ((2.2, -0.9), (0.9, 0.6)),
)
#: Colours that colour-blind readers tell apart (Okabe & Ito, 2008), and marks.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
MARKS = ("o", "s", "^", "D", "v")


class Gaussians(NamedTuple):
    """What a panel shows: its title, and means and variances (K, 2)."""

    title: str
    means: Tensor
    variances: Tensor


def points() -> Tensor:
    """The points of all classes, (K, N, 2), in float64."""
    generator = torch.Generator().manual_seed(0)
    middle, spread = torch.tensor(CLASSES, dtype=torch.float64).unbind(1)
    noise = torch.randn((len(CLASSES), POINTS, 2), generator=generator, dtype=torch.float64)
    return middle[:, None] + spread[:, None] * noise


def panels(data: Tensor) -> list[Gaussians]:
    """The Gaussians of the points, and those of the fixed point for each weight."""
    means = data.mean(1)
    variances = data.var(1, correction=0)
    shown = [Gaussians("Gaussians of the data", means, variances)]
    for weight in WEIGHTS:
        settings = FixedPointConfig(fit="both", kld_weight=weight, tolerance=1e-6)
        solved = solve(means, variances, settings)
        assert solved.converged
        shown.append(Gaussians(f"fixed point, c = {weight:g}", solved.means, solved.variances))
    return shown


def nearest(gaussians: Gaussians) -> float:
    """The smallest divergence between two classes, in nats."""
    kl = pairwise_kl(gaussians.means, gaussians.variances)
    return float(kl[~torch.eye(len(kl), dtype=torch.bool)].min())


def text_of(shown: list[Gaussians]) -> str:
    """The Gaussians as text, which is stored in the picture."""
    rows = [[one.title, *torch.cat(one[1:]).flatten().round(decimals=3).tolist()] for one in shown]
    return json.dumps(rows)


def drawn(path: Path) -> str:
    """The Gaussians that a picture shows, as `text_of` wrote them."""
    with Image.open(path) as picture:
        return str(picture.info.get(PNG_TEXT, ""))


def write(axis: Any, number: int, place: Tensor) -> None:
    """Write the number of a class."""
    axis.text(*place.tolist(), str(number + 1), ha="center", va="center", weight="bold")


def draw(data: Tensor, shown: list[Gaussians], path: Path) -> None:
    """Draw the points, and a panel for each of `shown`, all to one scale."""
    figure, axes = pyplot.subplots(
        2, 2, figsize=(9, 6.4), sharex=True, sharey=True, layout="constrained"
    )
    places = axes.flatten()
    places[0].set_title("data")
    for number, (of_class, colour) in enumerate(zip(data, COLOURS, strict=True)):
        places[0].scatter(*of_class.T, s=14, color=colour, marker=MARKS[number], alpha=0.7)
        write(places[0], number, of_class.mean(0))
    for axis, gaussians in zip(places[1:], shown, strict=True):
        axis.set_title(f"{gaussians.title}   (nearest classes: {nearest(gaussians):.1f} nats)")
        for number, colour in enumerate(COLOURS):
            mean = gaussians.means[number].tolist()
            width, height = gaussians.variances[number].sqrt().tolist()
            for deviations in (1, 2):
                size = (2 * deviations * width, 2 * deviations * height)
                axis.add_patch(Ellipse(mean, *size, facecolor=colour, alpha=0.25))
                axis.add_patch(Ellipse(mean, *size, fill=False, edgecolor=colour, linewidth=1.5))
            write(axis, number, gaussians.means[number])
    for axis in places:
        axis.set_aspect("equal")
        axis.tick_params(labelsize=8)
        for side in ("right", "top"):
            axis.spines[side].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    pyplot.close(figure)
    information = PngInfo()
    information.add_text(PNG_TEXT, text_of(shown))
    with Image.open(image) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True, pnginfo=information)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="draw nothing")
    options = parser.parse_args(arguments)
    data = points()
    shown = panels(data)
    if PICTURE.exists() and drawn(PICTURE) == text_of(shown):
        return 0
    print(f"other Gaussians: {PICTURE.name}")
    if not options.check:
        draw(data, shown, PICTURE)
    return int(options.check)


if __name__ == "__main__":
    sys.exit(main())
