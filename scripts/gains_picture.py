"""Draw docs/gains.png, the gains of the README, from the rows in benchmarks/results.

python scripts/gains_picture.py           # draw it
python scripts/gains_picture.py --check   # exit with 1 if the picture is of other rows

The picture shows the table "gains" of `benchmarks/results/tables.md`, and every comparison of
`benchmarks/results/ladder`. Its gains are written into the PNG file as text, which is what --check
compares: another version of matplotlib draws the same rows in other bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import figures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nfaug.compare.figures import LEAST_SEEDS, Gain

__all__ = ["PICTURE", "Line", "drawn_gains", "gains_of", "lines", "main"]

PICTURE = figures.ROOT / "docs" / "gains.png"
LADDER = figures.RESULTS / "ladder"
PNG_TEXT = "gains"
FONT_SIZE = 13.5
LINE_INCHES = 0.26
#: What is compared, in the order of the columns of the table, and its colour.
WAYS = {"NFA": "#c1272d", "RandAugment": "#808080", "NFA, then RandAugment": "#1f4e9c"}
#: The kinds of images in words, by their names in the table and in the names of files.
KINDS = {
    "CIFAR-10": "Small photographs (CIFAR-10)",
    "Fashion-MNIST": "Grayscale clothes (Fashion-MNIST)",
    "cells": "Blood cells",
    "clothes": "Photographs of clothes",
    "signs": "Hand signs",
    "letters": "Handwritten letters",
    "steel": "Steel surfaces",
    "groceries": "Photographs of groceries",
}
#: The rows of a comparison of the ladder, by classifier: the base, and those of `WAYS`.
#: Fine-tuning is at 96 pixels, the --image-size of benchmarks/ladder.py.
LADDER_ROWS = {
    "frozen features": (
        "frozen",
        (
            "frozen+nfa:builtin:pixels",
            "frozen+randaugment",
            "frozen+nfa:builtin:pixels+randaugment",
        ),
    ),
    "fine-tuned, 96 px": (
        "none",
        ("nfa:builtin:pixels", "randaugment", "nfa:builtin:pixels+randaugment"),
    ),
}


class Line(NamedTuple):
    """A line of the picture.

    Attributes:
        kind: The kind of images.
        title: The number of labelled images per class, and the classifier.
        gains: The gain of each of `WAYS`; None if it was not measured.
    """

    kind: str
    title: str
    gains: tuple[Gain | None, ...]


def kind_of(name: str) -> str:
    """The kind of images that a name of the table or of a file starts with."""
    for start, kind in KINDS.items():
        if name.startswith(start):
            return kind
    raise ValueError(f"gains_picture.py has no words for the images {name!r}: add them to KINDS")


def table_lines() -> list[Line]:
    """The lines of the table of the README."""
    _, _, *rows = figures.template("gains").splitlines()
    found = []
    images = ""
    for row in rows:
        first, labelled, _, *cells = figures.cells_of(row)
        images = first or images
        name, _, classifier = images.partition(", ")
        size = re.search(r" at (\d+) x ", name)
        at = f", {size[1]} px" if size else ""
        gains = []
        for cell in cells:
            rows_of_cell = figures.BRACED.fullmatch(cell)
            gain = None
            if rows_of_cell is not None:
                gain = figures.gain(rows_of_cell[1], rows_of_cell[2], figures.NONE)
            gains.append(gain)
        found.append(Line(kind_of(name), f"{labelled} per class, {classifier}{at}", tuple(gains)))
    return found


def ladder_lines() -> list[Line]:
    """The lines of the comparisons in the folder ladder."""
    page = (LADDER / "README.md").read_text(encoding="utf-8")
    labelled = re.search(r"^(\d+) label(?:s|led images) (?:a|per) class", page, re.M)
    if labelled is None:
        raise ValueError(f"{LADDER / 'README.md'} does not say how many labels a class has")
    found = []
    for classifier, (base, rows) in LADDER_ROWS.items():
        for file in sorted(LADDER.glob("*.csv")):
            gains = tuple(ladder_gain(file, row, base) for row in rows)
            if any(gains):
                kind = kind_of(file.name)
                found.append(Line(kind, f"{labelled[1]} per class, {classifier}", gains))
    return found


def ladder_gain(file: Path, row: str, base: str) -> Gain | None:
    """The gain of a row over another one; None if they have too few seeds in common."""
    seeds: dict[str, set[str]] = {row: set(), base: set()}
    with file.open(encoding="utf-8", newline="") as opened:
        for line in csv.DictReader(opened):
            seeds.setdefault(line["augmentation"], set()).add(line["seed"])
    if len(seeds[row] & seeds[base]) < LEAST_SEEDS:
        return None
    return figures.gain(f"ladder-{file.stem}", row, base)


def lines() -> list[Line]:
    """All lines, those of a kind of images together."""
    found = [*table_lines(), *ladder_lines()]
    kinds = list(dict.fromkeys(line.kind for line in found))
    return sorted(found, key=lambda line: kinds.index(line.kind))


def gains_of(shown: list[Line]) -> str:
    """The gains as text, which is stored in the picture."""
    rows = []
    for line in shown:
        rows.append([line.kind, line.title, *(None if g is None else str(g) for g in line.gains)])
    return json.dumps(rows)


def drawn_gains(path: Path) -> str:
    """The gains that a picture shows, as `gains_of` wrote them."""
    with Image.open(path) as picture:
        return str(picture.info.get(PNG_TEXT, ""))


def draw(shown: list[Line], path: Path) -> None:
    """Draw the lines from top to bottom, a heading before each kind of images."""
    heading_places: dict[str, float] = {}
    line_places: list[float] = []
    place = -1.0
    for line in shown:
        if line.kind not in heading_places:
            place += 1.25
            heading_places[line.kind] = place
        place += 1
        line_places.append(place)
    below = 0.66  # inches, for the axis and its title
    above = 0.42  # for the legend
    height = below + above + LINE_INCHES * (place + 1)
    figure = Figure(figsize=(8.3, height), facecolor="white")
    axes = figure.add_axes((0.41, below / height, 0.58, 1 - (below + above) / height))
    axes.set_xlim(*span(shown))
    axes.set_ylim(place + 0.5, -0.5)
    left = axes.get_yaxis_transform()  # x as a share of the width of the axes, y as the lines
    words: dict[str, Any] = {"transform": left, "va": "center", "size": FONT_SIZE}
    for kind, kind_place in heading_places.items():
        axes.text(-0.7, kind_place, kind, weight="bold", **words)
    for line, line_place in zip(shown, line_places, strict=True):
        axes.text(-0.66, line_place, line.title, **words)
        axes.axhspan(line_place - 0.5, line_place + 0.5, color="#f3f3f3", linewidth=0)
        draw_line(axes, line, line_place)
    axes.axvline(0, color="black", linewidth=1.2, zorder=1)
    axes.set_yticks([])
    axes.tick_params(labelsize=FONT_SIZE)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="white", linewidth=1.2)
    axes.set_axisbelow(True)
    title = "gain in points of accuracy, 95% interval (hollow: includes 0)"
    figure.text(0.99, 0.1 / height, title, ha="right", size=FONT_SIZE)
    handles = [
        Line2D([], [], color=colour, marker="o", linewidth=2, markersize=7, label=way)
        for way, colour in WAYS.items()
    ]
    figure.legend(
        handles=handles, loc="upper right", ncols=3, frameon=False, fontsize=FONT_SIZE,
        borderaxespad=0.2, columnspacing=1.2, handletextpad=0.4,
    )  # fmt: skip
    save(figure, path, gains_of(shown))


def save(figure: Figure, path: Path, text: str) -> None:
    """Save a figure as a PNG file of few colours, which holds a text."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=200)
    with Image.open(drawn) as picture:
        few_colours = picture.convert("RGB").quantize(64)
    information = PngInfo()
    information.add_text(PNG_TEXT, text)
    few_colours.save(path, optimize=True, pnginfo=information)


def span(shown: list[Line]) -> tuple[float, float]:
    """Points of accuracy from left to right: all intervals, and a little more."""
    gains = [gain for line in shown for gain in line.gains if gain is not None]
    low = min(gain.mean - gain.half for gain in gains)
    high = max(gain.mean + gain.half for gain in gains)
    return low - 0.5, high + 0.5


def draw_line(axes: Axes, line: Line, place: float) -> None:
    """Draw the gains of a line, each a little below the one before."""
    offsets = (-0.27, 0.0, 0.27)
    for gain, colour, offset in zip(line.gains, WAYS.values(), offsets, strict=True):
        if gain is None:
            continue
        clear = abs(gain.mean) > gain.half
        axes.errorbar(
            gain.mean, place + offset, xerr=gain.half, fmt="o", color=colour, markersize=6,
            markerfacecolor=colour if clear else "white", markeredgewidth=1.5, elinewidth=1.8,
        )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="draw nothing")
    options = parser.parse_args(arguments)
    shown = lines()
    if PICTURE.exists() and drawn_gains(PICTURE) == gains_of(shown):
        return 0
    print(f"other gains: {PICTURE.name}")
    if not options.check:
        draw(shown, PICTURE)
    return int(options.check)


if __name__ == "__main__":
    sys.exit(main())
