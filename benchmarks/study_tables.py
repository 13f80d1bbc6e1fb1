"""Which cells make up each table of the study, and the settings that were chosen for it."""

from __future__ import annotations

from study_cells import Cell

__all__ = ["CHOSEN", "STEPS", "TABLES", "cells_of"]

STEPS = 2000
FIRST_STEPS = 1000  # of the first look at settings
BASES = ("none", "flip+crop")
COMBINED = tuple(f"flip+crop+{more}" for more in ("randaugment", "mixup", "cutmix"))
_WITH_FLOW = ("noise", "nfa")
# Chosen on validation images by the table "settings", before any cell looked at the test images: of
# each arm what had the highest accuracy, averaged over both bases and three seeds. For NFA that is
# the best without noise, 84.27; with noise of 0.2 besides it was 84.33.
CHOSEN = {
    "none": "",
    "noise": "p=0.5 scale=0.5 variants=40",
    "mixup": "p=0.5 alpha=0.1",
    "nfa": "p=0.5 alpha=1 strength=1.5 gate=off variants=40",
}
# The best of all on those images: with noise besides. It contains another arm, and so is one of its
# own, and no candidate for NFA's; half of the table "main" was known when that was settled.
BOTH = "p=0.5 alpha=0.1 gate=off noise=0.2 variants=40"
# What the package has by default: chosen among MORE_CANDIDATES, after the table "main".
DEFAULTS = "p=0.5 alpha=1 strength=1.5 gate=1.25 variants=40"
_BORROWED = "gate=off shrink=0.5 rank=128"
# A first look, with 10 variants of each image. Mixing w ~ U(0, s) leaves 1 - s + 2 s^2 / 3 of the
# variance along an axis: two thirds at s = 1, all of it at s = 1.5.
FIRST_CANDIDATES = {
    "nfa": [
        "p=0.5 alpha=1 mix=axis",
        "p=0.8 alpha=1 mix=axis",
        "p=0.5 alpha=1 mix=axis strength=1.5",
        "p=0.8 alpha=1 mix=axis strength=1.5",
        "p=0.8 alpha=1 mix=pair",
        "p=0.8 alpha=1 mix=axis keep=consistent",
        f"p=0.8 alpha=1 mix=axis {_BORROWED} partners=all",
    ],
    "noise": ["p=0.5 scale=0.3", "p=0.8 scale=0.3", "p=0.8 scale=0.5"],
    "mixup": ["p=0.5 alpha=1", "p=0.8 alpha=1"],
}
# What was chosen from. Beta(0.1, 0.1) is nearly a coin: an axis keeps its coefficient or takes the
# partner's, and nine tenths of the variance stay.
CANDIDATES = {
    "nfa": [
        "p=0.5 alpha=1 variants=40",
        "p=0.5 alpha=1 strength=1.5 gate=off variants=40",
        "p=0.5 alpha=0.1 variants=40",
        "p=0.5 alpha=0.1 gate=off variants=40",
        "p=0.8 alpha=0.1 gate=off variants=40",
        "p=0.5 alpha=0.1 mix=pair gate=off variants=40",
        "p=0.5 alpha=0.1 gate=off keep=consistent variants=40",
        "p=0.5 alpha=0.1 gate=off noise=0.2 variants=40",
    ],
    "noise": [
        "p=0.5 scale=0.3 variants=40",
        "p=0.8 scale=0.3 variants=40",
        "p=0.5 scale=0.5 variants=40",
    ],
    "mixup": ["p=0.5 alpha=1", "p=0.5 alpha=0.1"],
}
# What was looked at besides, around what had been chosen; it could not be chosen any more.
_AROUND = "alpha=1 strength=1.5"
MORE_CANDIDATES = {
    "nfa": [
        DEFAULTS,
        f"p=0.5 {_AROUND} variants=40",
        "p=0.5 alpha=1 gate=off variants=40",
        f"p=0.5 {_AROUND} gate=off variants=10",
        f"p=0.5 {_AROUND} gate=off hard=4 variants=40",
        f"p=0.8 {_AROUND} gate=off fade=1 variants=40",
        f"p=0.5 {_AROUND} gate=off axes=16 variants=40",
        f"p=0.5 {_AROUND} gate=off tilt=1 variants=40",
        f"p=0.5 {_AROUND} gate=off tilt=-1 variants=40",
        f"p=0.5 {_AROUND} gate=off noise=0.2 variants=40",
        f"p=0.5 alpha=1 {_BORROWED} partners=own variants=40",
        f"p=0.5 alpha=1 {_BORROWED} partners=all variants=40",
    ],
    "noise": ["p=0.8 scale=0.5 variants=40", "p=0.5 scale=0.7 variants=40"],
    "mixup": ["p=0.8 alpha=0.1", "p=0.5 alpha=0.4"],
}
# All that was chosen with the flow of unlabelled images. Does noise want another scale with one of
# other images?
SCALES = (0.3, 0.5, 0.7, 1.0)
# It does: on those images 0.7 is the best, and NFA has no settings of its own for that flow. Of
# MORE_CANDIDATES one is better than what was chosen with the flow of unlabelled images.
OTHER_NOISE = {"o": "p=0.5 scale=0.7 variants=40", "u": "p=0.8 scale=0.5 variants=40"}
SETTINGS_SEEDS = (100, 101, 102)  # other labelled images than those of the reported seeds
_SETTINGS = {
    "first-settings": (FIRST_CANDIDATES, FIRST_STEPS),
    "settings": (CANDIDATES, STEPS),
    "more-settings": (MORE_CANDIDATES, STEPS),
}
# Besides the comparison of all arms: (arm, flow, settings) and steps, on the test images. The table
# "steps" has NFA gain still at 2 * STEPS, and the bare arm not.
_TESTED = {
    "both": ([("nfa+noise", "u", BOTH)], STEPS),
    "defaults": ([("nfa", "u", DEFAULTS)], STEPS),
    "other-noise": ([("noise", flow, each) for flow, each in OTHER_NOISE.items()], STEPS),
    "long": (
        [("none", "-", ""), ("noise", "u", CHOSEN["noise"]), ("nfa", "u", CHOSEN["nfa"])],
        2 * STEPS,
    ),
}
TABLES = {
    "main": "what helps at 50 labels per class, with a flow of the unlabelled images",
    "both": "NFA with noise besides, at 50 labels per class",
    "flows": "the same with flows of the labelled images alone, and of other classes",
    "first-settings": "a first look at settings, on validation images",
    "settings": "choice of settings, on validation images",
    "more-settings": "settings that could not be chosen",
    "defaults": "NFA as the package has it by default",
    "long": "what helps with twice as many steps",
    "other-noise": "noise with the best settings that were found for it",
    "scales": "noise of several scales with a flow of other classes, on validation images",
    "steps": "how many steps it takes, on validation images",
    "labels": "10, 100 and 500 labels per class",
    "combined": "on top of RandAugment, mixup and CutMix",
}


def cells_of(table: str, data: str, seeds: int) -> list[Cell]:
    """All cells of a table.

    Raises:
        ValueError: there is no such table.
    """
    if table in _SETTINGS:
        candidates, steps = _SETTINGS[table]
        return [
            Cell(data, arm, "u" if arm in _WITH_FLOW else "-", base, 50, seed, "validation", steps,
                 settings)
            for seed in SETTINGS_SEEDS
            for arm, tried in {"none": [""], **candidates}.items()
            for settings in tried
            for base in BASES
        ]  # fmt: skip
    if table == "scales":
        noises = [("noise", f"p=0.5 scale={scale:g} variants=40") for scale in SCALES]
        return [
            Cell(data, arm, "o", base, 50, seed, "validation", STEPS, settings)
            for seed in SETTINGS_SEEDS
            for arm, settings in [*noises, ("nfa", CHOSEN["nfa"])]
            for base in BASES
        ]
    if table == "steps":
        return [
            Cell(data, arm, "u" if arm in _WITH_FLOW else "-", "flip+crop", 50, seed, "validation",
                 steps, CHOSEN[arm])
            for seed in SETTINGS_SEEDS
            for steps in (STEPS // 2, STEPS, 2 * STEPS)
            for arm in CHOSEN
        ]  # fmt: skip
    if table in _TESTED:
        arms, steps = _TESTED[table]
        return [
            Cell(data, arm, flow, base, 50, seed, "test", steps, settings)
            for seed in range(seeds)
            for arm, flow, settings in arms
            for base in BASES
        ]
    if table == "main":
        bases, numbers, flows = BASES, (50,), "u"
    elif table == "flows":
        bases, numbers, flows = BASES, (50,), "lo"
    elif table == "labels":
        bases, numbers, flows = BASES, (10, 100, 500), "u"
    elif table == "combined":
        bases, numbers, flows = COMBINED, (50,), "u"
    else:
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")
    compared = [(arm, "-") for arm in CHOSEN if arm not in _WITH_FLOW]
    compared += [(arm, flow) for flow in flows for arm in _WITH_FLOW]
    return [
        Cell(data, arm, flow, base, per_class, seed, "test", STEPS, CHOSEN[arm])
        for seed in range(seeds)
        for per_class in numbers
        for arm, flow in compared
        for base in bases
    ]
