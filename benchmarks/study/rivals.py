"""What people use already beside NFA, and the settings of each that are tried.

`comparison.py` chooses among them and measures the best ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

__all__ = [
    "GRAY_RIVALS",
    "NETWORK_SETTINGS",
    "NONE",
    "RIVALS",
    "Candidate",
    "Protocol",
    "Settings",
    "by_share",
    "nfa",
    "protocol",
]

Settings = tuple[str, int]  # of a network: "NAME:LR:WEIGHT_DECAY:BATCH", and its steps


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


NONE = Candidate()


def _bases(*suffixes: str) -> list[Candidate]:
    return [Candidate(suffix=text) for text in suffixes]


def _nfa(flow: str) -> list[Candidate]:
    settings = ("strength=1.5", "strength=1", "alpha=0.1 strength=1")
    return [
        Candidate("nfa", flow, f"p={p} {each} gate=1.25 variants=20")
        for p, each in product((0.5, 0.8), settings)
    ]


def _rivals(noise: tuple[str, ...], beside: tuple[str, ...]) -> dict[str, list[Candidate]]:
    """Name -> candidates; `noise` has scales of latent noise alone, `beside` those beside NFA.

    RandAugment, the strongest, has nine candidates, for its best one was at an end of six.
    """
    return {
        # The defaults of torchvision: no Cutout, black fill; 128 is a grey one.
        "RandAugment": _bases(
            *("randaugment:1:9", "randaugment:2:9", "randaugment:2:9@0.5"),
            *("randaugment:2:14", "randaugment:2:9:128", "randaugment:2:14:128"),
            *("randaugment:2:5", "randaugment:2:20:128", "randaugment:3:14:128"),
        ),
        "TrivialAugment": _bases(
            *("trivialaugment", "trivialaugment@0.9", "trivialaugment@0.8"),
            *("trivialaugment@0.6", "trivialaugment@0.4", "trivialaugment:128"),
        ),
        "mixup": _bases(
            *("mixup:0.2", "mixup:1", "mixup:0.2@0.5", "mixup:1@0.5", "mixup:0.1", "mixup:0.4")
        ),
        "CutMix": _bases(
            *("cutmix:0.2", "cutmix:1", "cutmix:0.2@0.5"),
            *("cutmix:1@0.5", "cutmix:1@0.3", "cutmix:0.5"),
        ),
        "ISDA": _bases("isda:0.1", "isda:0.25", "isda:0.5", "isda:0.75", "isda:1", "isda:2"),
        "latent noise": [
            Candidate("noise", "b", f"p={p} scale={scale} variants=20")
            for p, scale in product((0.5, 0.8), noise)
        ],
        "same-class mixup": [
            Candidate("mixup", "-", f"p={p} {each}")
            for p, each in product((0.5, 0.8), ("alpha=1", "alpha=1 strength=1.5", "alpha=0.1"))
        ],
        "NFA without a flow": _nfa("p"),
        "NFA": _nfa("b"),
        "NFA with noise": [
            Candidate("nfa+noise", "b", f"p={p} strength=1.5 gate=off noise={each} variants=20")
            for p, each in product((0.5, 0.8), beside)
        ],
    }


RIVALS = _rivals(("0.7", "1", "1.4"), ("0.5", "0.7", "1"))
# Of grayscale images. Noise of 0.5 was the best one in an earlier study of Fashion-MNIST.
GRAY_RIVALS = _rivals(("0.3", "0.5", "0.7"), ("0.2", "0.5", "0.7"))


def by_share(each: Candidate) -> list[Candidate]:
    """The same settings for three shares p of augmented images."""
    return [
        replace(each, settings=re.sub(r"^p=\S+", f"p={p}", each.settings)) for p in (0.2, 0.5, 0.8)
    ]


def nfa(flow: str) -> Candidate:
    """NFA with the strength, gate and p of `NFAugment`."""
    return Candidate("nfa", flow, "p=0.5 strength=1.5 gate=1.25 variants=20")


def _few(identity: str, *randaugments: str) -> dict[str, list[Candidate]]:
    """A few candidates of each; NFA without a flow has the flow `identity`.

    RandAugment has five, from weak to strong, for its best one was often at an end of three, and
    then those of `randaugments`.
    """
    return {
        "RandAugment": _bases(
            *("randaugment:1:9@0.5", "randaugment:1:9", "randaugment:2:9"),
            *("randaugment:2:14:128", "randaugment:3:14:128"),
            *randaugments,
        ),
        "NFA without a flow": by_share(nfa(identity)),
        "NFA": by_share(nfa("b")),
    }


# For other numbers of labels than the protocol's.
BY_LABELS = _few("p")
# Digits have a black background, so that black fill is tried with strong operations as well.
DIGITS = _few("p", "randaugment:2:14", "randaugment:3:14")

SMALL, PHOTO = "small-cnn", "photo-cnn"
_STEPS = 2000
# "NAME:LR:WEIGHT_DECAY:BATCH" and steps. A tuned WRN-16-8 for 50 labels of CIFAR-10 used a batch of
# 10, a rate of 4.5e-3, a weight decay of 5.3e-3 and 250,000 images (arXiv:2108.13122). ResNet-18
# sees 80,000 or 160,000. Its first four settings were planned; the other eight were added, two at
# a time, after the accuracies of those before them were known.
NETWORK_SETTINGS: dict[str, list[Settings]] = {
    SMALL: [
        (f"{SMALL}:{lr}:{weight_decay}:64", _STEPS)
        for lr, weight_decay in product((0.05, 0.1, 0.2), (0.0005, 0.005))
    ],
    PHOTO: [
        (f"{PHOTO}:0.1:0.0005:64", 2000),
        (f"{PHOTO}:0.2:0.0005:64", 2000),
        (f"{PHOTO}:0.1:0.005:64", 2000),
        (f"{PHOTO}:0.1:0.0005:64", 4000),
        (f"{PHOTO}:0.1:0.005:64", 4000),
        (f"{PHOTO}:0.05:0.005:64", 4000),
    ],
    "resnet18": [
        ("resnet18:0.01:0.005:16", 5000),
        ("resnet18:0.03:0.001:16", 5000),
        ("resnet18:0.03:0.005:16", 5000),
        ("resnet18:0.01:0.02:16", 5000),
        ("resnet18:0.03:0.02:16", 5000),
        ("resnet18:0.1:0.01:16", 5000),
        ("resnet18:0.1:0.002:16", 5000),
        ("resnet18:0.1:0.005:64", 1250),
        ("resnet18:0.01:0.01:16", 10000),
        ("resnet18:0.01:0.02:16", 10000),
        ("resnet18:0.005:0.04:16", 5000),
        ("resnet18:0.01:0.03:16", 5000),
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


@dataclass(frozen=True)
class Protocol:
    """How the choices for a data set are made.

    Attributes:
        geometry: What every arm shares: shifts by an eighth of the image, as usual for CIFAR-10.
        network: The classifier that rivals are tuned with, in `classifiers.NETWORKS`.
        per_class: Labelled images per class, where a table names no other number; 0 takes all.
        seeds: Seeds of the candidates.
        rivals: Name -> candidates.
        by_labels: Name -> candidates with other numbers of labels than `per_class`.
        labels: Labelled images per class of the tables label-tuning and labels; empty where there
            are too few images.
    """

    geometry: str = "flip+crop"
    network: str = SMALL
    per_class: int = 50
    seeds: tuple[int, ...] = (200, 201, 202)
    rivals: Mapping[str, list[Candidate]] = field(default_factory=lambda: RIVALS)
    by_labels: Mapping[str, list[Candidate]] = field(default_factory=lambda: BY_LABELS)
    labels: tuple[int, ...] = (10, 100, 500)


_PROTOCOLS = {
    "cifar10": Protocol("flip+crop:4"),
    "fashion-mnist": Protocol("flip+crop:3", rivals=GRAY_RIVALS),
    "digits": Protocol("shift:1", rivals=DIGITS, by_labels=DIGITS, labels=(10, 50, 100)),
    # Photographs take minutes a cell. Without a flow, NFA mixes images at the bundled flow's size
    # and keeps the finer detail, as with it.
    "clothing128": Protocol("flip+crop:12", PHOTO, 0, (200, 201), _few("p32"), labels=()),
}


def protocol(data: str) -> Protocol:
    """The protocol of a data set, by name."""
    return _PROTOCOLS.get(data, Protocol())
