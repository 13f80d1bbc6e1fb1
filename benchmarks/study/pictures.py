"""The pictures of the study: gains and their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import NamedTuple

from .arms import ARMS
from .bases import base_parts
from .cells import Cell
from .flows import FLOWS, WITHOUT_FLOW
from .gains import Groups, gain_over_geometry, gain_over_none, geometry, order, preferred

__all__ = ["draw", "draw_rivals", "kind_of", "panels", "place_of", "row_of"]

_TITLES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "mixup": "mixup",
    "cutmix": "CutMix",
    "isda": "ISDA",
}
# Flows of arms that have a row of their own.
_FLOWS = {
    "l": "flow of the labelled images",
    "u": "flow of unlabelled images",
    "o": "flow of other images",
}


class _Mark(NamedTuple):
    """How an arm is drawn in the row of each base."""

    label: str
    colour: str
    offset: float = 0.0
    shape: str = "o"


_MARKS = {
    ("none", "-"): _Mark("without NFA", "tab:gray", -0.2),
    ("nfa", "p"): _Mark("after NFA without a flow", "tab:blue"),
    ("nfa", "b"): _Mark("after NFA with the bundled flow", "tab:red", 0.2),
}
# Arms with a row of their own: NFA, what else uses the bundled flow, and all others.
_OTHER_NFA = _Mark("NFA with another flow or with noise", "tab:orange")
_OTHER_NOISE = _Mark("latent noise with the bundled flow", "tab:gray", shape="s")
_OTHER = _Mark("", "tab:gray")


def draw(found: Groups, path: Path) -> None:
    """Gains over `none` with the same base and their intervals, one panel for each base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key in sorted(found, key=order) if key.arm != "none"]
    bases = list(dict.fromkeys(key.base for key in keys))
    if not bases:
        return
    arms = list(dict.fromkeys(_arm(key) for key in sorted(keys, key=lambda k: order(k)[2:])))
    names = [_name(arm, several=sum(a[:2] == arm[:2] for a in arms) > 1) for arm in arms]
    height = 1 + 0.33 * len(arms)
    figure, axes = pyplot.subplots(
        1, len(bases), figsize=(4.5 * len(bases), height), sharey=True, sharex=True, squeeze=False
    )
    for axis, base in zip(axes[0], bases, strict=True):
        mine = [key for key in keys if key.base == base]
        for key in mine:
            gain = gain_over_none(found, key)
            if gain is None:
                continue
            half = gain.total if gain.seeds > 1 else 0.0
            place = arms.index(_arm(key))
            axis.errorbar(gain.mean, place, xerr=half, fmt="o", color=_colour(key), capsize=3)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(arms)), names, fontsize=7)
        axis.set_title(f"on top of {base}" if base != "none" else "alone", fontsize=9)
        axis.set_xlabel("gain in accuracy, points (95% interval)", fontsize=8)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _arm(key: Cell) -> tuple[str, str, str]:
    return key.arm, key.flow, key.settings


def _name(arm: tuple[str, str, str], *, several: bool) -> str:
    name, flow, settings = arm
    shown = ARMS[name].title + (f", {settings.split(' variants')[0]}" if several else "")
    return shown + (f"\n{FLOWS[flow].title}" if flow in FLOWS else "")


def draw_rivals(found: Groups, path: Path, every: Groups | None = None) -> None:
    """Gains over flip and crop, with and without NFA, one panel for each data set.

    Of several settings of an arm or a base, the `preferred` ones are shown; `every` has the cells
    on held-out images.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    gained = {
        key: gain
        for key in preferred(found, place_of, every)
        if key.base != "none" and (gain := gain_over_geometry(found, key)) is not None
    }
    sets = panels(gained)
    if not sets:
        return
    rows = sorted({row_of(key) for key in gained if key.data in sets})
    figure, axes = pyplot.subplots(
        1,
        len(sets),
        figsize=(1.8 + 3.6 * len(sets), 1.4 + 0.36 * len(rows)),
        sharey=True,
        squeeze=False,
    )
    for axis, data in zip(axes[0], sets, strict=True):
        for key, gain in gained.items():
            if key.data != data:
                continue
            mark = _mark(key)
            axis.errorbar(
                gain.mean,
                rows.index(row_of(key)) + mark.offset,
                xerr=gain.total if gain.seeds > 1 else 0.0,
                fmt=mark.shape,
                markersize=4,
                capsize=2,
                color=mark.colour,
            )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(rows)), [name for _, name in rows], fontsize=8)
        named, reached = _geometry_alone(found, data)
        axis.set_title(f"{data}, {named} alone: {reached:.1f}%", fontsize=9)
        axis.set_xlabel(
            f"gain over {named} alone, points\n(95% interval, seeds and test images)", fontsize=8
        )
    axes[0][0].invert_yaxis()
    marks = [
        Line2D([], [], color=mark.colour, marker=mark.shape, linestyle="", label=mark.label)
        for mark in (*_MARKS.values(), _OTHER_NFA, _OTHER_NOISE)
    ]
    figure.legend(handles=marks, loc="upper center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def panels(keys: Iterable[Cell]) -> list[str]:
    """The data sets with at least half as many rows as the fullest one; tables have the others."""
    places: dict[str, set[tuple[int, str]]] = {}
    for key in keys:
        places.setdefault(key.data, set()).add(row_of(key))
    most = max(map(len, places.values()), default=0)
    return [data for data, mine in places.items() if 2 * len(mine) >= most]


def _mark(key: Cell) -> _Mark:
    if kind_of(key) in _MARKS:
        return _MARKS[kind_of(key)]
    if key.arm.startswith("nfa"):
        return _OTHER_NFA
    return _OTHER if key.flow == "-" else _OTHER_NOISE


def _geometry_alone(found: Groups, data: str) -> tuple[str, float]:
    """The geometry of a data set in words, and the mean accuracy that it reaches alone."""
    [(base, values)] = [
        (key.base, values)
        for key, values in found.items()
        if key.data == data and key.arm == "none" and key.base == geometry(key.base) != "none"
    ]
    named = " and ".join(part.name for part in base_parts(base))
    return named, statistics.fmean(each.accuracy for each in values.values())


def _colour(key: Cell) -> str:
    return "tab:red" if key.arm.startswith("nfa") else "tab:gray"


def place_of(key: Cell) -> tuple[Hashable, ...]:
    """What is drawn at one place: settings of arms and of bases are not told apart."""
    return key.data, geometry(key.base), row_of(key), kind_of(key)


def kind_of(key: Cell) -> tuple[str, str]:
    """Arm and flow; one name for NFA without a flow."""
    return key.arm, "p" if key.flow in WITHOUT_FLOW else key.flow


def row_of(key: Cell) -> tuple[int, str]:
    """Position and name of the row of a cell: its base, or an arm that has a row of its own."""
    beyond = [part.name for part in base_parts(key.base) if part.name in _TITLES]
    base = " + ".join(_TITLES[part] for part in beyond)
    if kind_of(key) in _MARKS:
        return (1 + list(_TITLES).index(beyond[0]) if beyond else 0), base or "nothing else"
    flow = f", {_FLOWS[key.flow]}" if key.flow in _FLOWS else ""
    return len(_TITLES) + 1, ARMS[key.arm].title + flow + (f", then {base}" if base else "")
