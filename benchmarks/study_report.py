"""The study's rows as Markdown and as a picture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from study_cells import Cell, Interval, interval
from study_flows import FLOWS

__all__ = ["Group", "gains", "groups", "write_report"]

NAMES = {
    "none": "none",
    "mixup": "same-class pixel mixup",
    "noise": "latent gaussian noise",
    "nfa": "NFA",
    "nfa+noise": "NFA with noise",
}
Rows = Mapping[Cell, Mapping[str, str]]
Group = tuple[str, int, str, int, str, str, str, str]  # all of a cell but its seed; see `groups`


def groups(rows: Rows) -> dict[Group, dict[int, float]]:
    """Accuracy by seed for each (data, per_class, split, steps, base, arm, flow, settings)."""
    found: dict[Group, dict[int, float]] = defaultdict(dict)
    for cell, row in rows.items():
        key = (cell.data, cell.per_class, cell.split, cell.steps, cell.base, cell.arm, cell.flow,
               cell.settings)  # fmt: skip
        found[key][cell.seed] = float(row["accuracy"])
    return dict(found)


def gains(arm: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Mean difference within seeds that both have, None where there are none."""
    both = sorted(set(arm) & set(reference))
    return interval([arm[seed] - reference[seed] for seed in both]) if both else None


def write_report(rows: Rows, markdown: Path, plot: Path) -> str:
    """Write the tables and the picture; return the tables."""
    parts = ["# Does it help?", "", _INTRODUCTION]
    found = groups(rows)
    titles = sorted({key[:4] for key in found}, key=lambda key: (key[2] != "test", key))
    for title in titles:
        mine = {key: values for key, values in found.items() if key[:4] == title}
        parts += ["", _table(title, mine, rows)]
        if title[2] == "test":
            parts += ["", _against(mine)]
    text = "\n".join(parts) + "\n"
    markdown.write_text(text, encoding="utf-8")
    tested = [title for title in titles if title[2] == "test"]
    if tested:  # of several, the one with most arms
        most = max(tested, key=lambda title: sum(key[:4] == title for key in found))
        draw({key: value for key, value in found.items() if key[:4] == most}, plot)
    return text


_INTRODUCTION = (
    "Written by `python benchmarks/study.py --print` from `study.csv`; the head of that script says"
    " how the cells are run. Accuracy of the study's small CNN in per cent, mean and half-width of "
    "the 95% confidence interval over seeds (Student's t). A gain is the difference to the arm "
    "`none` with the same base, within seeds; **bold** where its interval leaves out zero, each "
    "interval by itself: of twenty arms that do nothing one would be bold. NFA is compared with "
    "the better of noise's settings where there are several. Class gaussians, axes and memory of "
    "every arm are fitted to its labelled images alone. What settings "
    "leave out is alpha=1 strength=1 gate=1 variants=10, whatever the package's own defaults are. "
    "Seconds are medians a cell, on one core of a machine with other load."
)


def _table(
    title: tuple[str, int, str, int], found: dict[Group, dict[int, float]], rows: Rows
) -> str:
    data, per_class, split, steps = title
    lines = [
        f"## {data}, {per_class} labels per class, {split} images, {steps} steps",
        "",
        "| base | arm | the flow saw | settings | seeds | accuracy | gain | bank s | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted(found, key=_order):
        base, arm, flow, settings = key[4:]
        values = found[key]
        gain = gains(values, found.get((*title, base, "none", "-", ""), {}))
        shown = "" if gain is None or arm == "none" else _shown(gain)
        seconds = [
            _median(rows, (*title, base, arm, flow, settings), name)
            for name in ("bank_seconds", "train_seconds")
        ]
        lines.append(
            f"| {base} | {NAMES[arm]} | {FLOWS.get(flow, '-')} | {settings or '-'} | {len(values)} "
            f"| {interval(list(values.values()))} | {shown or '-'} | {seconds[0]:.0f} "
            f"| {seconds[1]:.0f} |"
        )
    return "\n".join(lines)


def _against(found: dict[Group, dict[int, float]]) -> str:
    """NFA less the simpler arms of the same base, and of the same flow where they have one.

    Of an arm with several settings the one of the highest mean is taken.
    """
    lines = [
        "| base | the flow saw | arm | less latent noise | less pixel mixup |",
        "|---|---|---|---|---|",
    ]
    keys = sorted((key for key in found if key[5].startswith("nfa")), key=_order)
    for key in keys:
        several = sum(other[:7] == key[:7] for other in keys) > 1
        name = NAMES[key[5]] + (f", {key[7]}" if several else "")
        shown = []
        for arm, flow in (("noise", key[6]), ("mixup", "-")):
            others = [v for k, v in found.items() if k[:5] == key[:5] and k[5:7] == (arm, flow)]
            best = max(others, key=lambda v: statistics.mean(v.values()), default={})
            gain = gains(found[key], best)
            shown.append("-" if gain is None else _shown(gain))
        lines.append(f"| {key[4]} | {FLOWS[key[6]]} | {name} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def _shown(gain: Interval) -> str:
    return f"**{gain.shown('+')}**" if gain.clear else gain.shown("+")


def _order(key: Group) -> tuple[object, ...]:
    base, arm, flow, settings = key[4:]
    return (base != "none", base, list(NAMES).index(arm), "-ulo".find(flow), settings)


def _median(rows: Rows, key: Group, name: str) -> float:
    return statistics.median(
        float(row[name])
        for cell, row in rows.items()
        if (cell.data, cell.per_class, cell.split, cell.steps) == key[:4]
        and (cell.base, cell.arm, cell.flow, cell.settings) == key[4:]
    )


def _name(key: tuple[str, str, str], *, several: bool) -> str:
    arm, flow, settings = key
    name = NAMES[arm] + (f", {settings.split(' variants')[0]}" if several else "")
    return name + (f"\n{FLOWS[flow]}" if flow in FLOWS else "")


def draw(found: dict[Group, dict[int, float]], path: Path) -> None:
    """Gains over `none` with the same base, with their intervals, a panel a base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key in sorted(found, key=_order) if key[5] != "none"]
    bases = list(dict.fromkeys(key[4] for key in keys))
    if not bases:
        return
    arms = list(dict.fromkeys(key[5:] for key in sorted(keys, key=lambda key: _order(key)[2:])))
    names = [_name(arm, several=sum(other[:2] == arm[:2] for other in arms) > 1) for arm in arms]
    height = 1 + 0.33 * len(arms)
    figure, axes = pyplot.subplots(
        1, len(bases), figsize=(4.5 * len(bases), height), sharey=True, sharex=True, squeeze=False
    )
    for axis, base in zip(axes[0], bases, strict=True):
        mine = [key for key in keys if key[4] == base]
        for key in mine:
            gain = gains(found[key], found.get((*key[:4], base, "none", "-", ""), {}))
            if gain is None:
                continue
            half = gain.half if gain.seeds > 1 else 0.0
            colour = "tab:red" if key[5].startswith("nfa") else "tab:gray"
            axis.errorbar(
                gain.mean, arms.index(key[5:]), xerr=half, fmt="o", color=colour, capsize=3
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
