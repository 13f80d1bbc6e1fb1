"""The picture of a comparison: gains with their intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from .figures import Gain


class Bar(NamedTuple):
    """A line of the picture: its title, gain and seconds, and whether it has NFA."""

    title: str
    gain: Gain
    seconds: float
    nfa: bool


def gains_picture(bars: Sequence[Bar], base: str) -> bytes:
    """A PNG picture of gains over `base`, with intervals and seconds; NFA in a color."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for height, bar in enumerate(bars):
        color = "tab:red" if bar.nfa else "tab:gray"
        half = 0.0 if math.isinf(bar.gain.half) else bar.gain.half
        axes.errorbar(bar.gain.mean, height, xerr=half, fmt="o", color=color, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    titles = [f"{bar.title}, {bar.seconds:.0f} s" for bar in bars]
    axes.set_yticks(range(len(bars)), titles, parse_math=False)  # a path may have a $
    figure.supxlabel(f"points of accuracy over {base}", fontsize="medium")  # wider than the axes
    axes.set_ylim(max(1, len(bars)) - 0.5, -0.5)  # the first method is at the top
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
