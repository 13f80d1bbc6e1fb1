"""The report of the study: tables in Markdown and one picture."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from nfaug.training.evaluation.intervals import Interval, interval

from .arms import ARMS
from .cells import Cell
from .classifiers import NETWORKS
from .flows import FLOWS, WITHOUT_FLOW
from .gains import (
    Groups,
    Rows,
    gain_over_geometry,
    gain_over_none,
    gains,
    geometry,
    groups,
    order,
    preferred,
)
from .pictures import draw, draw_rivals, kind_of, place_of, row_of

__all__ = ["write_report"]

# Arm and flow -> column of the overview.
OVERVIEW = {
    ("none", "-"): "alone, over geometry",
    ("nfa", "p"): "NFA without a flow adds",
    ("nfa", "b"): "NFA with the bundled flow adds",
}
Title = tuple[str, int, str, int, str]  # what the cells of one table of the report share


def write_report(rows: Rows, markdown: Path, plot: Path) -> str:
    """Write the tables and the picture; returns the tables."""
    parts = ["# Does it help?", "", _INTRODUCTION.format(csv=markdown.with_suffix(".csv").name)]
    found = groups(rows)
    several: dict[Cell, list[Mapping[str, str]]] = defaultdict(list)
    for cell, row in rows.items():
        several[replace(cell, seed=0)].append(row)
    parts += ["", *_details(found)]
    titles = sorted({_title(key) for key in found}, key=lambda title: (title[2] != "test", title))
    for title in titles:
        mine = {key: values for key, values in found.items() if _title(key) == title}
        overview = _overview(mine, found) if title[2] == "test" else ""
        parts += ["", _heading(title), *(["", overview] if overview else [])]
        parts += ["", _table(mine, several)]
        if title[2] == "test":
            compared = (
                *(_against(mine, found), _against_rivals(mine)),
                *(_beyond_nfa(mine, found), _between_flows(mine, found)),
            )
            parts += [part for table in compared if table for part in ("", table)]
    text = "\n".join(parts) + "\n"
    markdown.write_text(text, encoding="utf-8")
    tested = [title for title in titles if title[2] == "test"]
    if tested:  # the picture shows the table with most arms
        sizes = Counter(_title(key) for key in found)
        most = max(tested, key=lambda title: sizes[title])
        # The same table of every data set, where other augmentations than flip and crop are there.
        kinds = [title for title in tested if _kind(title) == _kind(most)]
        fullest = {title[0]: title for title in sorted(kinds, key=lambda title: sizes[title])}
        alike = {key: found[key] for key in found if _title(key) in fullest.values()}
        if any(key.base != geometry(key.base) for key in alike):
            draw_rivals(alike, plot, found)
        else:
            draw({key: values for key, values in alike.items() if _title(key) == most}, plot)
    return text


_INTRODUCTION = (
    "Written by `python -m benchmarks.study --print` from `{csv}`; "
    "`benchmarks/study/__main__.py` says how the cells are run. Accuracy in per cent, averaged "
    "over classes, of the study's small CNN where no other network is named: mean and half-width "
    "of the 95% confidence interval over seeds (Student's t). A gain is the difference to the arm "
    "`none` with the same base, within seeds. A second half-width is over test images, beyond "
    "what the first holds; with one seed, ? stands for the first. A gain is **bold** where "
    "its mean exceeds the root of the sum of both squares, with five seeds or more (three where "
    "no second one is known). 0.0 over images is an estimate at or below zero. Each interval "
    "stands alone: of twenty "
    "arms without effect, one is bold on average. Of "
    "an arm with several settings, comparisons take those with most seeds, then the highest "
    "mean on held-out images (of the base alone, then of the arm), or here where there is none. "
    "Images of rare classes weigh more in the accuracy, but not in its second half-width. The "
    "class gaussians, axes "
    "and memory of every arm are fitted to its labelled images alone. Settings that are not named "
    "are alpha=1 strength=1 gate=1 variants=10, not the defaults of the package; of mixing of "
    "latents, strength=1.5 variants=20 and no gate. Seconds are "
    "medians per cell, on one core of a machine with other load."
)


def _details(found: Groups) -> list[str]:
    """What the flows of the rows saw, where the tables have a few words alone."""
    used = {key.flow for key in found}
    return [
        f"- {each.title}: {each.detail}."
        for name, each in FLOWS.items()
        if name in used and each.detail
    ]


def _title(key: Cell) -> Title:
    return key.data, key.per_class, key.split, key.steps, key.network


def _kind(title: Title) -> tuple[int, str, int, str]:
    """What tables of different data sets share: labels, split, steps, name of the network."""
    _, per_class, split, steps, network = title
    return per_class, split, steps, network.partition(":")[0]


def _heading(title: Title) -> str:
    data, per_class, split, steps, network = title
    named = "" if network == next(iter(NETWORKS)) else f", {network}"
    labels = f"{per_class} labels per class" if per_class else "all labels"
    return f"## {data}, {labels}, {split} images, {steps} steps{named}"


def _overview(found: Groups, every: Groups) -> str:
    """A row for each augmentation: its gain over geometry alone, then what NFA before it adds.

    An arm with a row of its own has its gain over geometry alone. Empty where there is nothing but
    geometry.
    """
    keys = [key for key in preferred(found, place_of, every) if key.base != "none"]
    if all(key.base == geometry(key.base) for key in keys):
        return ""
    gained: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    alone, *_ = columns = list(OVERVIEW.values())
    for key in keys:
        column = OVERVIEW.get(kind_of(key), alone)
        gain = (gain_over_geometry if column == alone else gain_over_none)(found, key)
        reached = interval([each.accuracy for each in found[key].values()])
        gained[row_of(key)][column] = f"{reached}%" if gain is None else _shown(gain)
    lines = [f"| augmentation | {' | '.join(columns)} |", "|---" * 4 + "|"]
    for row in sorted(gained):
        shown = [gained[row].get(column, "") for column in columns]
        lines.append(f"| {row[1]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _table(found: Groups, rows: Mapping[Cell, list[Mapping[str, str]]]) -> str:
    """One row for each cell; `rows` has the CSV's rows of each, of all seeds."""
    several = any(key.base != geometry(key.base) for key in found)
    head = ["base", "arm", "the flow saw", "settings", "seeds", "accuracy", "gain"]
    head += ["over geometry"] * several + ["bank s", "training s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key in sorted(found, key=order):
        values = found[key]
        gain = None if key.arm == "none" else gain_over_none(found, key)
        bank, training = (_median(rows[key], name) for name in ("bank_seconds", "train_seconds"))
        beyond = f"| {_shown(gain_over_geometry(found, key))} " if several else ""
        reached = interval([each.accuracy for each in values.values()])
        lines.append(
            f"| {key.base} | {ARMS[key.arm].title} | {_saw(key.flow)} | {key.settings or '-'} "
            f"| {len(values)} | {reached} | {_shown(gain)} {beyond}"
            f"| {bank:.0f} | {training:.0f} |"
        )
    return "\n".join(lines)


def _against(found: Groups, every: Groups) -> str:
    """NFA minus the simpler arms with the same base, and the same flow where they use one.

    Of an arm with several settings, the `preferred` one is taken. Empty without NFA.
    """
    keys = sorted((key for key in found if key.arm.startswith("nfa")), key=order)
    if not keys:
        return ""
    simpler = preferred(found, every=every)
    without = {key.base: found[key] for key in simpler if key in keys and _bare(key)}
    head = ["base", "the flow saw", "arm", "less latent noise", "less pixel mixup"]
    head += ["less NFA without a flow"] * bool(without)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key in keys:
        several = (
            sum(replace(other, settings="") == replace(key, settings="") for other in keys) > 1
        )
        name = ARMS[key.arm].title + (f", {key.settings}" if several else "")
        shown = []
        for arm, flow in (("noise", key.flow), ("mixup", "-")):
            wanted = replace(key, arm=arm, flow=flow, settings="")
            others = [found[each] for each in simpler if replace(each, settings="") == wanted]
            shown.append(_shown(gains(found[key], others[0] if others else {})))
        if without:
            same = {} if _bare(key) else without.get(key.base, {})
            shown.append(_shown(gains(found[key], same)))
        lines.append(f"| {key.base} | {_saw(key.flow)} | {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _against_rivals(found: Groups) -> str:
    """NFA on geometry alone, minus each augmentation that is more than geometry, without NFA."""
    bases = [
        key
        for key in sorted(found, key=order)
        if key.arm == "none" and key.base != geometry(key.base)
    ]
    keys = [
        key
        for key in sorted(found, key=order)
        if key.arm.startswith("nfa") and key.base == geometry(key.base) != "none"
    ]
    if not bases or not keys:
        return ""
    head = ["arm", "on", "the flow saw", *(f"less {key.base}" for key in bases)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key in keys:
        shown = [_shown(gains(found[key], found[base])) for base in bases]
        arm = ARMS[key.arm].title
        lines.append(f"| {arm} | {key.base} | {_saw(key.flow)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _beyond_nfa(found: Groups, every: Groups) -> str:
    """NFA before each augmentation that is more than geometry, minus NFA on geometry alone.

    Is the combination worth more than NFA alone? Of an arm with several settings, the `preferred`
    one is taken. Empty without such an augmentation.
    """
    best = [key for key in preferred(found, every=every) if key.arm.startswith("nfa")]
    alone = {(key.arm, key.flow, key.base): key for key in best}
    lines = []
    for key in best:
        moved = geometry(key.base)
        bare = alone.get((key.arm, key.flow, moved))
        if key.base != moved and bare is not None:
            gain = gains(found[key], found[bare])
            named = f"{key.base} | {ARMS[key.arm].title} | {_saw(key.flow)}"
            lines.append(f"| {named} | {_shown(gain)} |")
    if not lines:
        return ""
    head = "| base | arm | the flow saw | less the same arm on geometry alone |"
    return "\n".join([head, "|---" * 4 + "|", *lines])


def _between_flows(found: Groups, every: Groups) -> str:
    """NFA with one flow minus NFA with another one, on geometry alone; empty without two flows."""
    keys = [
        key
        for key in preferred(found, every=every)
        if key.arm == "nfa" and not _bare(key) and key.base == geometry(key.base) != "none"
    ]
    lines = [
        f"| {key.base} | {_saw(key.flow)} | {_saw(other.flow)} | "
        f"{_shown(gains(found[key], found[other]))} |"
        for key, other in combinations(keys, 2)
    ]
    if not lines:
        return ""
    return "\n".join(
        ["| base | NFA, the flow saw | less NFA, the flow saw | gain |", "|---" * 4 + "|", *lines]
    )


def _bare(key: Cell) -> bool:
    """NFA without a flow."""
    return key.arm == "nfa" and key.flow in WITHOUT_FLOW


def _shown(gain: Interval | None) -> str:
    if gain is None:
        return "-"
    return f"**{gain.shown('+')}**" if gain.clear else gain.shown("+")


def _median(rows: list[Mapping[str, str]], name: str) -> float:
    return statistics.median(float(row[name]) for row in rows)


def _saw(flow: str) -> str:
    return FLOWS[flow].title if flow in FLOWS else "-"
