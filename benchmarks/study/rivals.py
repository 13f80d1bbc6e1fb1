"""The comparison with what people use already: settings of every rival by the same rule.

For each data set, "tuning" tries the candidates below on validation images with three seeds, each
rival on its own, with flip and crop (digits: shifts). "rivals" and "headline" take the candidate
with the highest mean and measure it on test images, with seeds that no choice has seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from .cells import Cell

__all__ = ["RIVALS", "Candidate", "choose", "headline", "rivals", "tuning"]

STEPS = 2000
TUNING_SEEDS = (100, 101, 102)
FIRST_SEED = 1000  # of the reported cells
# The geometry that every arm shares: a shift by an eighth of the image, as usual for CIFAR-10.
GEOMETRY = {
    "cifar10": "flip+crop:4",
    "fashion-mnist": "flip+crop:3",
    "clothing128": "flip+crop:12",
    "digits": "shift:1",
}


@dataclass(frozen=True)
class Candidate:
    """Settings of a rival.

    Attributes:
        arm: Name in `arms.ARMS`.
        flow: Name in `flows.FLOWS`, or "-".
        settings: Settings of the arm.
        suffix: What follows the geometry in the base.
    """

    arm: str = "none"
    flow: str = "-"
    settings: str = ""
    suffix: str = ""


def _bases(*suffixes: str) -> list[Candidate]:
    return [Candidate(suffix=text) for text in suffixes]


def _nfa(flow: str) -> list[Candidate]:
    settings = ("strength=1.5", "strength=1", "alpha=0.1 strength=1")
    return [
        Candidate("nfa", flow, f"p={p} {each} gate=1.25 variants=20")
        for p, each in product((0.5, 0.8), settings)
    ]


RIVALS = {
    "RandAugment": _bases(
        *("randaugment:1:5", "randaugment:1:9", "randaugment:2:5"),
        *("randaugment:2:9", "randaugment:2:14", "randaugment:2:9@0.5"),
    ),
    "TrivialAugment": _bases(
        *("trivialaugment", "trivialaugment@0.9", "trivialaugment@0.8"),
        *("trivialaugment@0.6", "trivialaugment@0.5", "trivialaugment@0.3"),
    ),
    "mixup": _bases(
        *("mixup:0.2", "mixup:1", "mixup:0.2@0.5", "mixup:1@0.5", "mixup:0.1", "mixup:0.4")
    ),
    "CutMix": _bases(
        *("cutmix:0.2", "cutmix:1", "cutmix:0.2@0.5", "cutmix:1@0.5", "cutmix:1@0.3", "cutmix:0.5")
    ),
    "ISDA": _bases("isda:0.1", "isda:0.25", "isda:0.5", "isda:0.75", "isda:1", "isda:2"),
    "latent noise": [
        Candidate("noise", "b", f"p={p} scale={scale} variants=20")
        for p, scale in product((0.5, 0.8), (0.3, 0.5, 0.7))
    ],
    "same-class mixup": [
        Candidate("mixup", "-", f"p={p} {each}")
        for p, each in product((0.5, 0.8), ("alpha=1", "alpha=1 strength=1.5", "alpha=0.1"))
    ],
    "NFA without a flow": _nfa("p"),
    "NFA": _nfa("b"),
}
_NONE = Candidate()


def tuning(data: str) -> list[Cell]:
    """All candidates on validation images."""
    every = [_NONE, *(each for tried in RIVALS.values() for each in tried)]
    return [_cell(data, each, seed, "validation") for seed, each in product(TUNING_SEEDS, every)]


def choose(rows: Mapping[Cell, Mapping[str, str]], data: str) -> dict[str, Candidate]:
    """The candidate of each rival with the highest mean accuracy on validation images.

    Raises:
        ValueError: Cells of the table "tuning" are missing.
    """
    if missing := sum(cell not in rows for cell in tuning(data)):
        raise ValueError(
            f"{missing} cells of the table tuning are missing for {data}: run it first"
        )

    def mean(candidate: Candidate) -> float:
        cells = [_cell(data, candidate, seed, "validation") for seed in TUNING_SEEDS]
        return statistics.fmean(float(rows[cell]["accuracy"]) for cell in cells)

    return {name: max(tried, key=mean) for name, tried in RIVALS.items()}


def rivals(rows: Mapping[Cell, Mapping[str, str]], data: str, seeds: int) -> list[Cell]:
    """Every rival alone, and those that NFA can precede with NFA before them, on test images."""
    chosen = choose(rows, data)
    bases = ["", *(chosen[name].suffix for name in RIVALS if chosen[name].suffix)]
    before = [_NONE, chosen["NFA without a flow"], chosen["NFA"]]
    arms = [
        *(Candidate(a.arm, a.flow, a.settings, suffix) for suffix, a in product(bases, before)),
        chosen["latent noise"],
        chosen["same-class mixup"],
    ]
    return _reported(data, arms, seeds)


def headline(
    rows: Mapping[Cell, Mapping[str, str]], data: str, seeds: int, network: str, steps: int
) -> list[Cell]:
    """NFA with and without a flow, on geometry alone and on RandAugment, for a larger network."""
    chosen = choose(rows, data)
    before = [_NONE, chosen["NFA without a flow"], chosen["NFA"]]
    arms = [
        Candidate(a.arm, a.flow, a.settings, suffix)
        for suffix, a in product(("", chosen["RandAugment"].suffix), before)
    ]
    return _reported(data, arms, seeds, network, steps)


def _reported(
    data: str,
    arms: Iterable[Candidate],
    seeds: int,
    network: str = "small-cnn",
    steps: int = STEPS,
) -> list[Cell]:
    return [
        _cell(data, each, FIRST_SEED + seed, "test", network, steps)
        for seed, each in product(range(seeds), arms)
    ]


def _cell(
    data: str,
    each: Candidate,
    seed: int,
    split: str,
    network: str = "small-cnn",
    steps: int = STEPS,
) -> Cell:
    base = "+".join(part for part in (GEOMETRY.get(data, "flip+crop"), each.suffix) if part)
    return Cell(data, each.arm, each.flow, base, 50, seed, split, steps, each.settings, network)
