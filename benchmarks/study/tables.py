"""The cells of each table of the study, and the settings chosen for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from .arms import ARMS
from .cells import Cell

__all__ = ["CHOSEN", "STEPS", "TABLES", "Table"]

STEPS = 2000
FIRST_STEPS = 1000  # of the first look at settings
BASES = ("none", "flip+crop")
# The settings of each arm with the highest validation accuracy in the table "settings", averaged
# over both bases and three seeds, chosen before any cell used the test images. For NFA this is the
# best setting without noise, 84.27; the same with noise of 0.2 reached 84.33.
CHOSEN = {
    "none": "",
    "noise": "p=0.5 scale=0.5 variants=40",
    "mixup": "p=0.5 alpha=0.1",
    "nfa": "p=0.5 alpha=1 strength=1.5 gate=off variants=40",
}
# The best settings on those images add noise. They combine two arms, so they are a separate arm and
# no candidate for NFA's. Half of the table "main" was known when this was decided.
BOTH = "p=0.5 alpha=0.1 gate=off noise=0.2 variants=40"
# The defaults of the package, chosen among MORE_CANDIDATES after the table "main".
DEFAULTS = "p=0.5 alpha=1 strength=1.5 gate=1.25 variants=40"
BUNDLED = "p=0.5 alpha=1 strength=1.5 gate=1.25 variants=20"
_BORROWED = "gate=off shrink=0.5 rank=128"
# The first candidates, with 10 variants of each image. Mixing with w ~ U(0, s) keeps
# 1 - s + 2 s^2 / 3 of the variance along an axis: two thirds at s = 1, all of it at s = 1.5.
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
# The candidates for CHOSEN. Beta(0.1, 0.1) is nearly a coin toss: an axis keeps its coefficient or
# takes the partner's, and nine tenths of the variance remain.
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
# Variations of the chosen settings, measured after the choice.
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
# Flows to mix in, and other ways to mix latents (candidates.py), all with 20 variants and no gate.
_LATENT = "p=0.5 variants=20"
MIXING = [
    *(("latent", flow, _LATENT) for flow in ("p", "b", "n12")),
    *(
        ("latent", flow, f"{_LATENT} {more}")
        for flow, more in (
            ("b", "axes=image"),
            ("n12", "axes=image"),
            ("p", "hard=4"),
            ("b", "hard=4"),
            ("b", "variance=1"),
        )
    ),
]
# The other candidates, with the flow that was trained with noise of 24 levels.
MIXING_MORE = [
    *(("latent", flow, _LATENT) for flow in ("n24", "c", "s")),
    *(
        ("latent", "n24", f"{_LATENT} {more}")
        for more in (
            "axes=image",
            "hard=4",
            "variance=1",
            "mix=pair",
            "levels=coarsest",
            "levels=coarse",
            "near=5",
            "global=256 shrink=0.5",
            "ascent=0.5",
        )
    ),
]
# The variant is a second view of its image, so every image has one.
VIEWS = [("none", "-", ""), *(("latent", flow, "p=1 variants=20") for flow in ("p", "n24"))]
# The settings above were chosen with the flow "u". These scales of noise test the flow "o".
SCALES = (0.3, 0.5, 0.7, 1.0)
# The best setting of noise for each flow: 0.7 for "o", one of MORE_CANDIDATES for "u". NFA has no
# setting chosen for "o".
OTHER_NOISE = {"o": "p=0.5 scale=0.7 variants=40", "u": "p=0.8 scale=0.5 variants=40"}
SETTINGS_SEEDS = (100, 101, 102)  # other labelled images than those of the reported seeds


@dataclass(frozen=True)
class Table:
    """A grid of cells: every combination of arm, base, labels per class, steps and seed.

    Attributes:
        title: Description for --help.
        arms: (arm, flow, settings) of each arm.
        bases: Augmentations after the arm.
        per_class: Labelled images per class.
        steps: Optimiser steps.
        validation: Measure on validation images, to choose settings.
        seeds: Seeds of a table on validation images.
    """

    title: str
    arms: Sequence[tuple[str, str, str]]
    bases: Sequence[str] = BASES
    per_class: Sequence[int] = (50,)
    steps: Sequence[int] = (STEPS,)
    validation: bool = False
    seeds: Sequence[int] = SETTINGS_SEEDS

    @property
    def needs_other(self) -> bool:
        """Whether an arm uses the flow of other classes."""
        return any(flow == "o" for _, flow, _ in self.arms)

    def cells(self, data: str, seeds: int, network: str = "small-cnn") -> list[Cell]:
        """All cells of the table; a table on validation images ignores `seeds`."""
        split = "validation" if self.validation else "test"
        return [
            Cell(data, arm, flow, base, per_class, seed, split, steps, settings, network)
            for seed, per_class, steps, (arm, flow, settings), base in product(
                self.seeds if self.validation else range(seeds),
                self.per_class,
                self.steps,
                self.arms,
                self.bases,
            )
        ]


def _needs_flow(arm: str) -> bool:
    return ARMS[arm].bank is not None


def _chosen(flows: Iterable[str]) -> list[tuple[str, str, str]]:
    """The chosen settings of every arm; arms with a flow once for each of `flows`."""
    without = [(arm, "-", CHOSEN[arm]) for arm in CHOSEN if not _needs_flow(arm)]
    return without + [(a, f, CHOSEN[a]) for f in flows for a in CHOSEN if _needs_flow(a)]


def _candidates(candidates: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    return [("none", "-", "")] + [
        (arm, "u" if _needs_flow(arm) else "-", settings)
        for arm, tried in candidates.items()
        for settings in tried
    ]


_SCALED = [("noise", "o", f"p=0.5 scale={scale:g} variants=40") for scale in SCALES]
TABLES = {
    "main": Table("all arms at 50 labels per class, flow of unlabelled images", _chosen("u")),
    "both": Table("NFA with noise", [("nfa+noise", "u", BOTH)]),
    "flows": Table("flows of the labelled images alone, and of other classes", _chosen("lo")),
    "first-settings": Table(
        "first candidates for settings, on validation images",
        _candidates(FIRST_CANDIDATES),
        steps=(FIRST_STEPS,),
        validation=True,
    ),
    "settings": Table(
        "choice of settings, on validation images", _candidates(CANDIDATES), validation=True
    ),
    "more-settings": Table(
        "settings measured after the choice, on validation images",
        _candidates(MORE_CANDIDATES),
        validation=True,
    ),
    "defaults": Table("NFA with the defaults of the package", [("nfa", "u", DEFAULTS)]),
    # Ten seeds on validation images, because flows and defaults are chosen on this table.
    "bundled": Table(
        "the bundled flow, one trained with noise and no flow, with the defaults of the package, "
        "on validation images",
        [("none", "-", ""), *(("nfa", flow, BUNDLED) for flow in ("p", "b", "n12"))],
        bases=("flip+crop", "flip+crop+randaugment"),
        validation=True,
        seeds=range(100, 110),
    ),
    "mixing": Table(
        "other ways to mix latents, on validation images",
        [("none", "-", ""), *MIXING],
        bases=("flip+crop",),
        validation=True,
        seeds=range(100, 105),
    ),
    "mixing-more": Table(
        "more ways to mix latents, on validation images",
        [("none", "-", ""), *MIXING_MORE],
        bases=("flip+crop",),
        validation=True,
        seeds=range(100, 105),
    ),
    "views": Table(
        "image and variant as two views with a consistency loss, on validation images",
        VIEWS,
        bases=("flip+crop+consistency:12",),
        validation=True,
        seeds=range(100, 105),
    ),
    # From the table "steps": NFA still gains at 2 * STEPS, the bare arm does not.
    "long": Table(
        "twice as many steps",
        [arm for arm in _chosen("u") if arm[0] != "mixup"],
        steps=(2 * STEPS,),
    ),
    "other-noise": Table(
        "noise with the best settings found for each flow",
        [("noise", flow, settings) for flow, settings in OTHER_NOISE.items()],
    ),
    "scales": Table(
        "scales of noise with a flow of other classes, on validation images",
        [*_SCALED, ("nfa", "o", CHOSEN["nfa"])],
        validation=True,
    ),
    "steps": Table(
        "numbers of steps, on validation images",
        _chosen("u"),
        bases=("flip+crop",),
        steps=(STEPS // 2, STEPS, 2 * STEPS),
        validation=True,
    ),
}
