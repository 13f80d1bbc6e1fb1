"""Which cells make up each table of the study, and the settings that were chosen for it."""

from __future__ import annotations

from study_cells import Cell

__all__ = ["CHOSEN", "STEPS", "TABLES", "cells_of"]

STEPS = 1000
BASES = ("none", "flip+crop")
# Chosen on validation images by the table "settings"; the test set played no part.
CHOSEN = {
    "none": "",
    "noise": "p=0.5 scale=0.3",
    "mixup": "p=0.5 alpha=1",
    "nfa": "p=0.5 alpha=1 mix=axis",
}
CANDIDATES = {
    "noise": ["p=0.5 scale=0.3", "p=0.8 scale=0.15", "p=0.8 scale=0.3", "p=0.8 scale=0.5"],
    "mixup": ["p=0.5 alpha=1", "p=0.8 alpha=1", "p=0.8 alpha=0.4"],
    "nfa": [
        "p=0.5 alpha=1 mix=axis",
        "p=0.8 alpha=1 mix=axis",
        "p=0.8 alpha=1 mix=pair",
        "p=0.8 alpha=0.4 mix=axis",
        "p=0.8 alpha=1 mix=axis strength=0.7",
        "p=0.8 alpha=1 mix=axis axes=16",
        "p=0.8 alpha=1 mix=axis gate=off",
        "p=0.8 alpha=1 mix=axis gate=off shrink=0.5 rank=128 partners=own",
        "p=0.8 alpha=1 mix=axis gate=off shrink=0.5 rank=128 partners=all",
        "p=0.8 alpha=1 mix=axis gate=off shrink=1 rank=128 partners=all",
    ],
}
SETTINGS_SEEDS = (100, 101, 102)  # other labelled images than those of the reported seeds
TABLES = {
    "main": "what helps at 50 labels per class",
    "settings": "choice of settings, on validation images",
}


def cells_of(table: str, data: str, seeds: int) -> list[Cell]:
    """All cells of a table.

    Raises:
        ValueError: there is no such table.
    """
    if table == "main":
        arms = [("none", "-"), ("mixup", "-")]
        arms += [(arm, flow) for flow in "ulo" for arm in ("noise", "nfa")]
        return [
            Cell(data, arm, flow, base, 50, seed, "test", STEPS, CHOSEN[arm])
            for seed in range(seeds)
            for arm, flow in arms
            for base in BASES
        ]
    if table == "settings":
        return [
            Cell(data, arm, "-" if arm in ("none", "mixup") else "u", base, 50, seed,
                 "validation", STEPS, settings)
            for seed in SETTINGS_SEEDS
            for arm, candidates in {"none": [""], **CANDIDATES}.items()
            for settings in candidates
            for base in BASES
        ]  # fmt: skip
    raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")
