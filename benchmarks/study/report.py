"""The report of the study: tables in Markdown and one picture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nfaug.training.evaluation.intervals import Interval, interval

from .arms import ARMS
from .cells import Cell
from .classifiers import NETWORKS
from .flows import FLOWS

__all__ = ["gains", "groups", "write_report"]

Rows = Mapping[Cell, Mapping[str, str]]
Groups = Mapping[Cell, Mapping[int, float]]  # a cell with seed 0 -> accuracy by seed
Title = tuple[str, int, str, int, str]  # what the cells of one table of the report share


def groups(rows: Rows) -> dict[Cell, dict[int, float]]:
    """Accuracy by seed of the cells that differ in their seed alone; the key has seed 0."""
    found: dict[Cell, dict[int, float]] = defaultdict(dict)
    for cell, row in rows.items():
        found[replace(cell, seed=0)][cell.seed] = float(row["accuracy"])
    return dict(found)


def gains(arm: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """The mean difference over the seeds that both have; None without such a seed."""
    both = sorted(set(arm) & set(reference))
    return interval([arm[seed] - reference[seed] for seed in both]) if both else None


def write_report(rows: Rows, markdown: Path, plot: Path) -> str:
    """Write the tables and the picture; returns the tables."""
    parts = ["# Does it help?", "", _INTRODUCTION.format(csv=markdown.with_suffix(".csv").name)]
    found = groups(rows)
    titles = sorted({_title(key) for key in found}, key=lambda title: (title[2] != "test", title))
    for title in titles:
        mine = {key: values for key, values in found.items() if _title(key) == title}
        parts += ["", _table(title, mine, rows)]
        if title[2] == "test":
            parts += ["", _against(mine)]
    text = "\n".join(parts) + "\n"
    markdown.write_text(text, encoding="utf-8")
    tested = [title for title in titles if title[2] == "test"]
    if tested:  # the picture shows the table with most arms
        most = max(tested, key=lambda title: sum(_title(key) == title for key in found))
        draw({key: values for key, values in found.items() if _title(key) == most}, plot)
    return text


_INTRODUCTION = (
    "Written by `python -m benchmarks.study --print` from `{csv}`; "
    "`benchmarks/study/__main__.py` says how the cells are run. Accuracy in per cent, averaged "
    "over classes, of the study's small CNN where no other network is named: mean and half-width "
    "of the 95% confidence interval over seeds (Student's t). A gain is the difference to the arm "
    "`none` with the same base, within seeds. It is **bold** where its interval excludes zero. "
    "Each interval stands alone: of twenty arms without effect, one is bold on average. NFA is "
    "compared with the best setting of noise where there are several. The class gaussians, axes "
    "and memory of every arm are fitted to its labelled images alone. Settings that are not named "
    "are alpha=1 strength=1 gate=1 variants=10, not the defaults of the package. Seconds are "
    "medians per cell, on one core of a machine with other load."
)


def _title(key: Cell) -> Title:
    return key.data, key.per_class, key.split, key.steps, key.network


def _gain(found: Groups, key: Cell) -> Interval | None:
    """The gain of an arm over `none` with the same base."""
    bare = replace(key, arm="none", flow="-", settings="")
    return gains(found[key], found.get(bare, {}))


def _table(title: Title, found: Groups, rows: Rows) -> str:
    data, per_class, split, steps, network = title
    named = "" if network == next(iter(NETWORKS)) else f", {network}"
    lines = [
        f"## {data}, {per_class} labels per class, {split} images, {steps} steps{named}",
        "",
        "| base | arm | the flow saw | settings | seeds | accuracy | gain | bank s | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted(found, key=_order):
        values = found[key]
        gain = None if key.arm == "none" else _gain(found, key)
        bank, training = (_median(rows, key, name) for name in ("bank_seconds", "train_seconds"))
        lines.append(
            f"| {key.base} | {ARMS[key.arm].title} | {_saw(key.flow)} | {key.settings or '-'} "
            f"| {len(values)} | {interval(list(values.values()))} | {_shown(gain)} "
            f"| {bank:.0f} | {training:.0f} |"
        )
    return "\n".join(lines)


def _against(found: Groups) -> str:
    """NFA minus the simpler arms with the same base, and the same flow where they use one.

    Of an arm with several settings, the one with the highest mean is taken.
    """
    lines = [
        "| base | the flow saw | arm | less latent noise | less pixel mixup |",
        "|---|---|---|---|---|",
    ]
    keys = sorted((key for key in found if key.arm.startswith("nfa")), key=_order)
    for key in keys:
        several = (
            sum(replace(other, settings="") == replace(key, settings="") for other in keys) > 1
        )
        name = ARMS[key.arm].title + (f", {key.settings}" if several else "")
        shown = []
        for arm, flow in (("noise", key.flow), ("mixup", "-")):
            wanted = replace(key, arm=arm, flow=flow, settings="")
            others = [v for k, v in found.items() if replace(k, settings="") == wanted]
            best = max(others, key=lambda values: statistics.mean(values.values()), default={})
            shown.append(_shown(gains(found[key], best)))
        lines.append(f"| {key.base} | {_saw(key.flow)} | {name} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def _saw(flow: str) -> str:
    return FLOWS[flow].title if flow in FLOWS else "-"


def _shown(gain: Interval | None) -> str:
    if gain is None:
        return "-"
    return f"**{gain.shown('+')}**" if gain.clear else gain.shown("+")


def _order(key: Cell) -> tuple[object, ...]:
    return (
        key.base != "none",
        key.base,
        list(ARMS).index(key.arm),
        ["-", *FLOWS].index(key.flow),
        key.settings,
    )


def _median(rows: Rows, key: Cell, name: str) -> float:
    return statistics.median(
        float(row[name]) for cell, row in rows.items() if replace(cell, seed=0) == key
    )


def draw(found: Groups, path: Path) -> None:
    """Gains over `none` with the same base and their intervals, one panel for each base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key in sorted(found, key=_order) if key.arm != "none"]
    bases = list(dict.fromkeys(key.base for key in keys))
    if not bases:
        return
    arms = list(dict.fromkeys(_arm(key) for key in sorted(keys, key=lambda k: _order(k)[2:])))
    names = [_name(arm, several=sum(a[:2] == arm[:2] for a in arms) > 1) for arm in arms]
    height = 1 + 0.33 * len(arms)
    figure, axes = pyplot.subplots(
        1, len(bases), figsize=(4.5 * len(bases), height), sharey=True, sharex=True, squeeze=False
    )
    for axis, base in zip(axes[0], bases, strict=True):
        mine = [key for key in keys if key.base == base]
        for key in mine:
            gain = _gain(found, key)
            if gain is None:
                continue
            half = gain.half if gain.seeds > 1 else 0.0
            colour = "tab:red" if key.arm.startswith("nfa") else "tab:gray"
            axis.errorbar(
                gain.mean, arms.index(_arm(key)), xerr=half, fmt="o", color=colour, capsize=3
            )
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
