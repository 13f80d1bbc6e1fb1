"""The comparison with what people use already: settings of every rival by the same rule.

For each data set, "tuning" tries the candidates below on validation images with three seeds, each
rival on its own, with flip and crop (digits: shifts). "network" does the same for the optimiser of
a larger network, with nothing but flip and crop. "rivals", "labels", "headline" and "photographs"
take the candidate with the highest mean and measure it on test images, with seeds that no choice
has seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from .cells import Cell

__all__ = [
    "GEOMETRY",
    "NETWORK_SETTINGS",
    "RIVALS",
    "Candidate",
    "choose",
    "choose_network",
    "headline",
    "labels",
    "network_tuning",
    "photographs",
    "rivals",
    "tuning",
]

Rows = Mapping[Cell, Mapping[str, str]]

STEPS = 2000
TUNING_SEEDS = (100, 101, 102)
FIRST_SEED = 1000  # of the reported cells
PER_CLASS = 50  # labels, where a table names no other number
LABELS = (10, 100, 500)
# A data set whose cells are too dear for the table "tuning" takes the choices of another.
TUNED_ON = {"clothing128": "cifar10"}
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
        bare: Leave even the geometry out.
    """

    arm: str = "none"
    flow: str = "-"
    settings: str = ""
    suffix: str = ""
    bare: bool = False


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
FINALISTS = 3


def tuning(data: str) -> list[Cell]:
    """All candidates on validation images."""
    every = [_NONE, *(each for tried in RIVALS.values() for each in tried)]
    return [_cell(data, each, seed, "validation") for seed, each in product(TUNING_SEEDS, every)]


def choose(rows: Rows, data: str) -> dict[str, Candidate]:
    """The candidate of each rival with the highest mean accuracy on validation images.

    Raises:
        ValueError: Cells of the table "tuning" are missing.
    """
    data = TUNED_ON.get(data, data)
    if missing := sum(cell not in rows for cell in tuning(data)):
        raise ValueError(
            f"{missing} cells of the table tuning are missing for {data}: run it first"
        )

    def mean(candidate: Candidate) -> float:
        return _mean(rows, (_cell(data, candidate, seed, "validation") for seed in TUNING_SEEDS))

    return {name: max(tried, key=mean) for name, tried in RIVALS.items()}


def rivals(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """Every rival alone and with NFA before it, and NFA with other flows, on test images.

    The flows of the labelled images alone ("l") and of other images ("o") take NFA's settings.
    """
    chosen = choose(rows, data)
    before = _with_and_without_nfa(chosen)
    bases = [Candidate(bare=True), _NONE, *(each for each in chosen.values() if each.suffix)]
    arms = [
        *(replace(base, **_arm(each)) for base, each in product(bases, before)),
        *(replace(chosen["NFA"], flow=flow) for flow in ("l", "o")),
        chosen["latent noise"],
        chosen["same-class mixup"],
    ]
    return _reported(data, arms, seeds)


def labels(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, with fewer and with more labels per class."""
    return [
        cell
        for per_class in LABELS
        for cell in _reported(data, _two_bases(choose(rows, data)), seeds, per_class=per_class)
    ]


def photographs(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, with all labels of larger images."""
    return _reported(data, _two_bases(choose(rows, data)), seeds, per_class=0)


def headline(rows: Rows, data: str, seeds: int, network: str) -> list[Cell]:
    """NFA with and without a flow, on geometry alone and on RandAugment, for a larger network."""
    settings, steps = choose_network(rows, data, network)
    return _reported(data, _two_bases(choose(rows, data)), seeds, settings, steps)


def network_tuning(rows: Rows, data: str, network: str) -> list[Cell]:
    """Settings of a larger network, with flip and crop alone, on validation images.

    All settings with one seed; when these cells are done, the best three with a second seed.

    Raises:
        ValueError: The network has no settings to try.
    """
    if network not in NETWORK_SETTINGS:
        raise ValueError(
            f"the network must be one of {', '.join(NETWORK_SETTINGS)}; got {network!r}"
        )
    first, second = TUNING_SEEDS[:2]
    tried = [
        _cell(data, _NONE, first, "validation", settings, steps)
        for settings, steps in NETWORK_SETTINGS[network]
    ]
    if any(cell not in rows for cell in tried):
        return tried
    best = sorted(tried, key=lambda cell: _mean(rows, [cell]), reverse=True)[:FINALISTS]
    return tried + [replace(cell, seed=second) for cell in best]


def choose_network(rows: Rows, data: str, network: str) -> tuple[str, int]:
    """Of the best three, the settings and steps with the highest mean on validation images.

    Raises:
        ValueError: Cells of the table "network" are missing.
    """
    tried = network_tuning(rows, data, network)
    missing = sum(cell not in rows for cell in tried)
    if missing or len(tried) == len(NETWORK_SETTINGS[network]):
        raise ValueError(
            f"{missing} cells of the table network are missing for {network} on {data}: "
            "run it first"
        )
    finals = tried[len(NETWORK_SETTINGS[network]) :]
    first = TUNING_SEEDS[0]
    best = max(finals, key=lambda cell: _mean(rows, [cell, replace(cell, seed=first)]))
    return best.network, best.steps


def _mean(rows: Rows, cells: Iterable[Cell]) -> float:
    return statistics.fmean(float(rows[cell]["accuracy"]) for cell in cells)


def _arm(each: Candidate) -> dict[str, str]:
    return {"arm": each.arm, "flow": each.flow, "settings": each.settings}


def _with_and_without_nfa(chosen: Mapping[str, Candidate]) -> list[Candidate]:
    return [_NONE, chosen["NFA without a flow"], chosen["NFA"]]


def _two_bases(chosen: Mapping[str, Candidate]) -> list[Candidate]:
    return [
        replace(base, **_arm(each))
        for base, each in product((_NONE, chosen["RandAugment"]), _with_and_without_nfa(chosen))
    ]


def _reported(
    data: str,
    arms: Iterable[Candidate],
    seeds: int,
    network: str = "small-cnn",
    steps: int = STEPS,
    *,
    per_class: int = PER_CLASS,
) -> list[Cell]:
    return [
        _cell(data, each, FIRST_SEED + seed, "test", network, steps, per_class)
        for seed, each in product(range(seeds), arms)
    ]


def _cell(
    data: str,
    each: Candidate,
    seed: int,
    split: str,
    network: str = "small-cnn",
    steps: int = STEPS,
    per_class: int = PER_CLASS,
) -> Cell:
    geometry = "" if each.bare else GEOMETRY.get(data, "flip+crop")
    base = "+".join(part for part in (geometry, each.suffix) if part) or "none"
    return Cell(
        data, each.arm, each.flow, base, per_class, seed, split, steps, each.settings, network
    )
