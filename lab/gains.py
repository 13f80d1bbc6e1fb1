"""Draw docs/gains.png: gains at defaults, of every dataset of `lab/results/defaults`.

    python lab/gains.py           # draw it
    python lab/gains.py --check   # exit with 1 if the picture is of other rows

A column each from scratch and fine-tuned, and a line for each dataset. The gains are written into
the PNG file as text, which is what --check compares: another version of matplotlib draws the same
rows in other bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import tables
from matplotlib import pyplot
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nfaug.compare.figures import Gain

PICTURE = tables.ROOT / "docs" / "gains.png"
PNG_TEXT = "gains"
COLUMNS = {"scratch": "from scratch", "finetuned": "fine-tuned"}
#: The methods, and their colors.
METHODS = {
    "NFA in pixels": "#c1272d",
    "RandAugment": "#808080",
    "MixUp": "#1f4e9c",
    "CutMix": "#c9a227",
}


class Line(NamedTuple):
    """A dataset and a network: the gain of each of `METHODS`, None if it was not measured."""

    images: str
    network: str
    gains: tuple[Gain | None, ...]


def lines() -> list[Line]:
    """All lines, in the order of the table of the documentation."""
    found = []
    for network in COLUMNS:
        _, _, *rows = tables.templates()[f"defaults-{network}"].splitlines()
        for row in rows:
            files = {file for file, _ in tables.BRACED.findall(row)}
            [file] = files
            measured = {line["augmentation"] for line in tables.lines_of(file)}
            gains = [tables.gain(file, name) if name in measured else None for name in METHODS]
            found.append(Line(row.split("|")[1].strip(), network, tuple(gains)))
    return found


def text_of(shown: list[Line]) -> str:
    """The gains as text, which is stored in the picture."""
    rows = [
        [line.images, line.network, *(None if g is None else str(g) for g in line.gains)]
        for line in shown
    ]
    return json.dumps(rows)


def drawn(path: Path) -> str:
    """The gains that a picture shows, as `text_of` wrote them."""
    with Image.open(path) as picture:
        return str(picture.info.get(PNG_TEXT, ""))


def draw(shown: list[Line], path: Path) -> None:
    """Draw the lines; a dot is filled if its interval excludes 0."""
    names = list(dict.fromkeys(line.images for line in shown))
    figure, axes = pyplot.subplots(
        1, len(COLUMNS), figsize=(9, 7), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (network, title) in zip(axes, COLUMNS.items(), strict=True):
        for place, name in enumerate(names):
            if place % 2:
                axis.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", linewidth=0)
            [line] = [one for one in shown if (one.images, one.network) == (name, network)]
            for number, (gain, color) in enumerate(zip(line.gains, METHODS.values(), strict=True)):
                if gain is None:
                    continue
                filled = abs(gain.mean) > gain.half
                axis.errorbar(
                    gain.mean,
                    place + 0.2 * (number - 1.5),
                    xerr=gain.half,
                    fmt="o",
                    color=color,
                    markersize=6,
                    markerfacecolor=color if filled else "white",
                )
        axis.axvline(0, color="black", linewidth=1)
        axis.set_title(title)
        axis.set_yticks(range(len(names)), names)
        for side in ("left", "right", "top"):
            axis.spines[side].set_visible(False)
        axis.tick_params(left=False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("gain, points of accuracy, 95% interval (hollow: includes 0)")
    handles = [
        Line2D([], [], color=color, marker="o", label=name) for name, color in METHODS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    pyplot.close(figure)
    information = PngInfo()
    information.add_text(PNG_TEXT, text_of(shown))
    with Image.open(image) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True, pnginfo=information)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="draw nothing")
    options = parser.parse_args(arguments)
    shown = lines()
    if PICTURE.exists() and drawn(PICTURE) == text_of(shown):
        return 0
    print(f"other gains: {PICTURE.name}")
    if not options.check:
        draw(shown, PICTURE)
    return int(options.check)


if __name__ == "__main__":
    sys.exit(main())
