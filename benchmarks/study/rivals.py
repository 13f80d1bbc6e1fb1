"""The comparison with what people use already: settings of every rival by the same rule.

All choices are made on the images of the split "tuning", another draw than that on which flows and
defaults were chosen, with seeds that nothing else uses. "network" tries learning rates and weight
decays with nothing but flip and crop (digits: shifts). "tuning" tries the candidates below with the
small CNN so chosen and three seeds, each rival on its own. "rivals", "labels", "headline" and
"photographs" take the candidate with the highest mean and measure it on test images, with seeds
that no choice has seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from .cells import Cell
from .gains import Rows

__all__ = [
    "GEOMETRY",
    "NETWORK_SETTINGS",
    "RIVALS",
    "Candidate",
    "choose",
    "choose_network",
    "headline",
    "labels",
    "longer",
    "network_tuning",
    "photographs",
    "rivals",
    "tuning",
]

Settings = tuple[str, int]  # of a network: "NAME:LR:WEIGHT_DECAY:BATCH", and its steps

STEPS = 2000
TUNING_SEEDS = (200, 201, 202)
FIRST_SEED = 1000  # of the reported cells
PER_CLASS = 50  # labels, where a table names no other number
LABELS = (10, 100, 500)
# A data set whose cells take too long for the table "tuning" takes the choices of another.
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
    # The defaults of torchvision: no Cutout, black fill; 128 is a grey one.
    "RandAugment": _bases(
        *("randaugment:1:9", "randaugment:2:9", "randaugment:2:9@0.5"),
        *("randaugment:2:14", "randaugment:2:9:128", "randaugment:2:14:128"),
    ),
    "TrivialAugment": _bases(
        *("trivialaugment", "trivialaugment@0.9", "trivialaugment@0.8"),
        *("trivialaugment@0.6", "trivialaugment@0.4", "trivialaugment:128"),
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
        for p, scale in product((0.5, 0.8), ("0.7", "1", "1.4"))
    ],
    "same-class mixup": [
        Candidate("mixup", "-", f"p={p} {each}")
        for p, each in product((0.5, 0.8), ("alpha=1", "alpha=1 strength=1.5", "alpha=0.1"))
    ],
    "NFA without a flow": _nfa("p"),
    "NFA": _nfa("b"),
    "NFA with noise": [
        Candidate("nfa+noise", "b", f"p={p} strength=1.5 gate=off noise={noise} variants=20")
        for p, noise in product((0.5, 0.8), ("0.5", "0.7", "1"))
    ],
}
_NONE = Candidate()
# "NAME:LR:WEIGHT_DECAY:BATCH" and steps. Those of ResNet-18 see 80,000 images. A tuned WRN-16-8 for
# 50 labels of CIFAR-10 used a batch of 10, a rate of 4.5e-3, a weight decay of 5.3e-3 and 250,000
# images (arXiv:2108.13122).
SMALL = "small-cnn"
NETWORK_SETTINGS = {
    SMALL: [
        (f"{SMALL}:{lr}:{weight_decay}:64", STEPS)
        for lr, weight_decay in product((0.05, 0.1, 0.2), (0.0005, 0.005))
    ],
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
# Seeds of the second round; a larger network's cells take long.
_SECOND = {SMALL: TUNING_SEEDS[1:]}
FINALISTS = 3


def network_tuning(rows: Rows, data: str, network: str) -> list[Cell]:
    """Settings of a network, with flip and crop alone, on the split "tuning".

    All settings with one seed; when these cells are done, the best three with further seeds: two
    for the small CNN, one for a larger network.

    Raises:
        ValueError: The network has no settings to try.
    """
    if network not in NETWORK_SETTINGS:
        raise ValueError(
            f"the network must be one of {', '.join(NETWORK_SETTINGS)}; got {network!r}"
        )
    first = [
        _cell(data, _NONE, TUNING_SEEDS[0], "tuning", each) for each in NETWORK_SETTINGS[network]
    ]
    if any(cell not in rows for cell in first):
        return first
    best = sorted(first, key=lambda cell: _mean(rows, [cell]), reverse=True)[:FINALISTS]
    seeds = _SECOND.get(network, TUNING_SEEDS[1:2])
    return first + [replace(cell, seed=seed) for seed, cell in product(seeds, best)]


def choose_network(rows: Rows, data: str, network: str = SMALL) -> Settings:
    """Of the best three, the settings with the highest mean.

    Raises:
        ValueError: Cells of the table "network" are missing.
    """
    data = TUNED_ON.get(data, data)
    tried = network_tuning(rows, data, network)
    _check(rows, tried, f"network with --network {network}", data)
    finals = tried[len(NETWORK_SETTINGS[network]) :]
    seeds = {cell.seed for cell in tried}

    def mean(cell: Cell) -> float:
        return _mean(rows, (replace(cell, seed=seed) for seed in seeds))

    best = max(finals, key=mean)
    return best.network, best.steps


def tuning(rows: Rows, data: str) -> list[Cell]:
    """All candidates of every rival on the split "tuning".

    Raises:
        ValueError: Cells of the table "network" are missing for the small CNN.
    """
    network = choose_network(rows, data)
    every = [_NONE, *(each for tried in RIVALS.values() for each in tried)]
    return [
        _cell(data, each, seed, "tuning", network) for seed, each in product(TUNING_SEEDS, every)
    ]


def choose(rows: Rows, data: str) -> dict[str, Candidate]:
    """The candidate of each rival with the highest mean accuracy on the split "tuning".

    Raises:
        ValueError: Cells of the tables "network" or "tuning" are missing.
    """
    data = TUNED_ON.get(data, data)
    network = choose_network(rows, data)
    _check(rows, tuning(rows, data), "tuning", data)

    def mean(candidate: Candidate) -> float:
        return _mean(
            rows, (_cell(data, candidate, seed, "tuning", network) for seed in TUNING_SEEDS)
        )

    return {name: max(tried, key=mean) for name, tried in RIVALS.items()}


def longer(rows: Rows, data: str) -> list[Cell]:
    """Twice the steps for the arms that regularise most: do they need more? Split "tuning"."""
    chosen = choose(rows, data)
    arms = [
        _NONE,
        *(chosen[name] for name in ("RandAugment", "CutMix", "NFA without a flow", "NFA")),
    ]
    network, steps = choose_network(rows, data)
    return [
        _cell(data, each, seed, "tuning", (network, 2 * steps))
        for seed, each in product(TUNING_SEEDS, arms)
    ]


def rivals(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """Every rival alone and with NFA before it, and NFA with other flows, on test images.

    What is simpler than NFA, and NFA with latent noise, come before RandAugment as well.
    The flows of the labelled images alone ("l"), of unlabelled images ("u") and of other images
    ("o") have one shape and fewer steps than the bundled flow, whose settings they take.
    """
    chosen = choose(rows, data)
    augment, cutmix = chosen["RandAugment"], chosen["CutMix"]
    others = [chosen[name] for name in ("latent noise", "same-class mixup", "NFA with noise")]
    bases = [
        Candidate(bare=True),
        _NONE,
        *(each for each in chosen.values() if each.suffix),
        Candidate(suffix=f"{augment.suffix}+{cutmix.suffix}"),
    ]
    arms = [
        *_before(bases, _with_and_without_nfa(chosen)),
        *(replace(chosen["NFA"], flow=flow) for flow in ("l", "u", "o")),
        *_before([_NONE, augment], others),
    ]
    return _reported(data, arms, seeds, choose_network(rows, data))


def labels(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, with fewer and with more labels per class."""
    chosen, network = choose(rows, data), choose_network(rows, data)
    arms = _before([_NONE, chosen["RandAugment"]], _with_and_without_nfa(chosen))
    return [
        cell for per_class in LABELS for cell in _reported(data, arms, seeds, network, per_class)
    ]


def photographs(rows: Rows, data: str, seeds: int, *, given: bool = False) -> list[Cell]:
    """The same with all labels of images larger than the flow.

    Without a flow, NFA mixes images at their own size ("p"), or at the bundled flow's ("p32").
    `given` adds the flow "f".
    """
    chosen = choose(rows, data)
    nfa = _with_and_without_nfa(chosen)
    nfa.append(replace(chosen["NFA without a flow"], flow="p32"))
    if given:
        nfa.append(replace(chosen["NFA"], flow="f"))
    arms = _before([_NONE, chosen["RandAugment"]], nfa)
    return _reported(data, arms, seeds, choose_network(rows, data), per_class=0)


def headline(rows: Rows, data: str, seeds: int, network: str) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, for a larger network.

    Settings of augmentations are those of the small CNN.
    """
    chosen = choose(rows, data)
    arms = _before([_NONE, chosen["RandAugment"]], _with_and_without_nfa(chosen))
    return _reported(data, arms, seeds, choose_network(rows, data, network))


def _check(rows: Rows, cells: list[Cell], table: str, data: str) -> None:
    if missing := sum(cell not in rows for cell in cells):
        raise ValueError(
            f"{missing} cells of the table {table} are missing for {data}: run it first"
        )


def _mean(rows: Rows, cells: Iterable[Cell]) -> float:
    return statistics.fmean(float(rows[cell]["accuracy"]) for cell in cells)


def _with_and_without_nfa(chosen: Mapping[str, Candidate]) -> list[Candidate]:
    return [_NONE, chosen["NFA without a flow"], chosen["NFA"]]


def _before(bases: Iterable[Candidate], arms: Iterable[Candidate]) -> list[Candidate]:
    """Every arm before every base."""
    return [
        replace(base, arm=each.arm, flow=each.flow, settings=each.settings)
        for base, each in product(bases, arms)
    ]


def _reported(
    data: str,
    arms: Iterable[Candidate],
    seeds: int,
    network: Settings,
    per_class: int = PER_CLASS,
) -> list[Cell]:
    return [
        _cell(data, each, FIRST_SEED + seed, "test", network, per_class)
        for seed, each in product(range(seeds), arms)
    ]


def _cell(
    data: str,
    each: Candidate,
    seed: int,
    split: str,
    network: Settings,
    per_class: int = PER_CLASS,
) -> Cell:
    geometry = "" if each.bare else GEOMETRY.get(data, "flip+crop")
    base = "+".join(part for part in (geometry, each.suffix) if part) or "none"
    name, steps = network
    return Cell(data, each.arm, each.flow, base, per_class, seed, split, steps, each.settings, name)
