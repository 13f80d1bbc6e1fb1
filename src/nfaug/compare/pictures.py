"""Pictures of a comparison: gains with their intervals, and the variants that were compared."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from nfaug.pictures.preview import picture_grid

from .figures import Gain
from .images import Part
from .rows import PIXELS, Row
from .work import Shown, pairs_of

_CLASSES = 10
_CELL = 96  # pixels up to which images are enlarged


class Bar(NamedTuple):
    """A row of the picture of gains: its title, gain and seconds, and whether it has NFA."""

    title: str
    gain: Gain
    seconds: float
    nfa: bool


def gains_picture(bars: Sequence[Bar], base: str) -> bytes:
    """A PNG picture of gains over `base`, with intervals and seconds; NFA in a colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for height, bar in enumerate(bars):
        colour = "tab:red" if bar.nfa else "tab:gray"
        half = 0.0 if math.isinf(bar.gain.half) else bar.gain.half
        axes.errorbar(bar.gain.mean, height, xerr=half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    titles = [f"{bar.title}, {bar.seconds:.0f} s" for bar in bars]
    axes.set_yticks(range(len(bars)), titles)
    figure.supxlabel(f"points of accuracy over {base}", fontsize="medium")  # wider than the axes
    axes.set_ylim(max(1, len(bars)) - 0.5, -0.5)  # the first row is at the top
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def variants_picture(part: Part, shown: Mapping[Row, Shown], classes: Sequence[str]) -> bytes:
    """A PNG picture of what is compared: a line for each of the first classes.

    An image, for each policy alone some variants as they are trained on, and for each flow the
    partner of the image, which is mixed in, and some variants of both; without the safe
    augmentations.
    """
    firsts, _ = pairs_of(part.labels)
    columns = [part.images[firsts]]
    titles = ["image"]
    simple = [row for row in shown if bool(row.flow) != bool(row.policy)]
    for row in simple or shown:
        if not row.added or row.policy == "mixup":  # which mixes a whole batch
            continue
        partners, variants = shown[row]
        if partners is not None:
            columns.append(torch.from_numpy(partners))
            titles.append("partner")
        columns += torch.from_numpy(variants)
        titles.append("NFA" if row.flow == PIXELS and not row.policy else row.added)
        titles += [""] * (len(variants) - 1)  # a title may be as wide as its variants
    table = torch.stack(columns, 1)[:_CLASSES]
    names = [classes[label] for label in part.labels[firsts[:_CLASSES]].tolist()]
    picture = io.BytesIO()
    picture_grid(table, titles, names, cell=_CELL).save(picture, format="png")
    return picture.getvalue()
