"""The comparison with what people use already: settings of every rival by the same rule.

For each data set, "tuning" tries the candidates below on validation images with three seeds, each
rival on its own, with flip and crop (digits: shifts). "network" does the same for the optimiser of
a larger network, with nothing but flip and crop. "rivals" and "headline" take the candidate with
the highest mean and measure it on test images, with seeds that no choice has seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from .cells import Cell

__all__ = [
    "NETWORK_SETTINGS",
    "RIVALS",
    "Candidate",
    "choose",
    "choose_network",
    "headline",
    "network_tuning",
    "rivals",
    "tuning",
]

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
# "NAME:LR:WEIGHT_DECAY:BATCH" and steps of each larger network; 80,000 images a cell. A tuned
# WRN-16-8 for 50 labels of CIFAR-10 used a batch of 10, a rate of 4.5e-3, a weight decay of 5.3e-3
# and 250,000 images (arXiv:2108.13122).
NETWORK_SETTINGS = {
    "resnet18": [
        ("resnet18:0.01:0.005:16", 5000),
        ("resnet18:0.03:0.005:16", 5000),
        ("resnet18:0.03:0.001:16", 5000),
        ("resnet18:0.01:0.02:16", 5000),
        ("resnet18:0.05:0.005:64", 1250),
        ("resnet18:0.1:0.0005:64", 1250),
    ],
    "small-swin": [
        ("small-swin:0.001:0.05:64", 1250),
        ("small-swin:0.002:0.05:64", 1250),
        ("small-swin:0.001:0.3:64", 1250),
        ("small-swin:0.0005:0.05:64", 1250),
        ("small-swin:0.001:0.05:64", 2500),
        ("small-swin:0.0005:0.05:64", 2500),
    ],
}
NETWORK_SEEDS = TUNING_SEEDS[:2]


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


def network_tuning(data: str, network: str) -> list[Cell]:
    """All settings of a larger network, with flip and crop alone, on validation images.

    Raises:
        ValueError: The network has no settings to try.
    """
    if network not in NETWORK_SETTINGS:
        raise ValueError(
            f"the network must be one of {', '.join(NETWORK_SETTINGS)}; got {network!r}"
        )
    return [
        _cell(data, _NONE, seed, "validation", settings, steps)
        for seed, (settings, steps) in product(NETWORK_SEEDS, NETWORK_SETTINGS[network])
    ]


def choose_network(
    rows: Mapping[Cell, Mapping[str, str]], data: str, network: str
) -> tuple[str, int]:
    """The settings and steps of a network with the highest mean accuracy on validation images.

    Raises:
        ValueError: Cells of the table "network" are missing.
    """
    tried = network_tuning(data, network)
    if missing := sum(cell not in rows for cell in tried):
        raise ValueError(
            f"{missing} cells of the table network are missing for {network} on {data}: "
            "run it first"
        )

    def mean(settings: tuple[str, int]) -> float:
        return statistics.fmean(
            float(rows[cell]["accuracy"])
            for cell in tried
            if (cell.network, cell.steps) == settings
        )

    return max(NETWORK_SETTINGS[network], key=mean)


def headline(
    rows: Mapping[Cell, Mapping[str, str]], data: str, seeds: int, network: str
) -> list[Cell]:
    """NFA with and without a flow, on geometry alone and on RandAugment, for a larger network."""
    chosen = choose(rows, data)
    settings, steps = choose_network(rows, data, network)
    before = [_NONE, chosen["NFA without a flow"], chosen["NFA"]]
    arms = [
        Candidate(a.arm, a.flow, a.settings, suffix)
        for suffix, a in product(("", chosen["RandAugment"].suffix), before)
    ]
    return _reported(data, arms, seeds, settings, steps)


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
