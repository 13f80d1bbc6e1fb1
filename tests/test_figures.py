"""Every gain in README.md, the guide and the tables of where.py is computed here from its rows."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from figures import RESULTS, gain, rows

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "when-it-helps.md", ROOT / "docs" / "index.md"]
SHOWN = re.compile(r"[+-]\d+(?:\.\d)? ± \d+(?:\.\d)?")

SMALL, PHOTO = "small-cnn:0.2:0.0005:64", "photo-cnn:0.1:0.005:64"
RESNET, SWIN = "resnet18:0.01:0.02:16", "small-swin:0.001:0.05:64"
COLOUR, GREY, LARGE = "flip+crop:4", "flip+crop:3", "flip+crop:12"


def safe(data: str, labels: int, base: str, steps: int = 2000, net: str = SMALL) -> dict[str, str]:
    """The rows of the safe augmentations, and of a policy after them, without NFA."""
    return {
        "data": data, "per_class": str(labels), "steps": str(steps), "network": net,
        "split": "test", "base": base, "arm": "none", "flow": "-", "settings": "",
    }  # fmt: skip


def nfa(rows: dict[str, str], flow: str, p: float, mixing: str = "strength=1.5") -> dict[str, str]:
    """The rows of NFA before these: flow "b" is the bundled one, "p" mixes pixels."""
    settings = f"p={p} {mixing} gate=1.25 variants=20"
    return {**rows, "arm": "nfa", "flow": flow, "settings": settings}


def compared(augmentation: str) -> dict[str, str]:
    """The rows of an augmentation in a file of `nfaug compare`."""
    return {"augmentation": augmentation}


C10, C50 = safe("cifar10", 10, COLOUR), safe("cifar10", 50, COLOUR)
C100, C500 = safe("cifar10", 100, COLOUR), safe("cifar10", 500, COLOUR)
F10, F50 = safe("fashion-mnist", 10, GREY), safe("fashion-mnist", 50, GREY)
F100, F500 = safe("fashion-mnist", 100, GREY), safe("fashion-mnist", 500, GREY)
R50, S50 = safe("cifar10", 50, COLOUR, 10_000, RESNET), safe("cifar10", 50, COLOUR, 1250, SWIN)
P = safe("clothing128", 0, LARGE, 4000, PHOTO)


def with_policy(rows: dict[str, str], policy: str) -> dict[str, str]:
    return {**rows, "base": f"{rows['base']}+{policy}"}


STRONG, USUAL, MILD = "randaugment:3:14:128", "randaugment:2:9", "randaugment:1:9"
FIGURES = {
    "CIFAR-10, 10 labels: pixels": (nfa(C10, "p", 0.8), C10),
    "10 labels: RandAugment": (with_policy(C10, STRONG), C10),
    "10 labels: pixels, RandAugment": (nfa(with_policy(C10, STRONG), "p", 0.8), C10),
    "10 labels: added": (nfa(with_policy(C10, STRONG), "p", 0.8), with_policy(C10, STRONG)),
    "CIFAR-10, 50 labels: flow": (nfa(C50, "b", 0.8), C50),
    "50 labels: pixels": (nfa(C50, "p", 0.8, "alpha=0.1 strength=1"), C50),
    "50 labels: RandAugment": (with_policy(C50, STRONG), C50),
    "50 labels: added": (nfa(with_policy(C50, STRONG), "b", 0.5), with_policy(C50, STRONG)),
    "CIFAR-10, 100 labels: pixels": (nfa(C100, "p", 0.5), C100),
    "100 labels: RandAugment": (with_policy(C100, USUAL), C100),
    "CIFAR-10, 500 labels: pixels": (nfa(C500, "p", 0.2), C500),
    "500 labels: RandAugment": (with_policy(C500, MILD), C500),
    "ResNet-18: flow": (nfa(R50, "b", 0.8), R50),
    "ResNet-18: RandAugment": (with_policy(R50, MILD), R50),
    "Swin: flow": (nfa(S50, "b", 0.8), S50),
    "Swin: RandAugment": (with_policy(S50, "randaugment:2:14:128"), S50),
    "photographs: pixels": (nfa(P, "p32", 0.2), P),
    "Fashion-MNIST, 10 labels: flow": (nfa(F10, "b", 0.5), F10),
    "grey, 10 labels: RandAugment": (with_policy(F10, STRONG), F10),
    "Fashion-MNIST, 50 labels: flow": (nfa(F50, "b", 0.5), F50),
    "grey, 50 labels: RandAugment": (with_policy(F50, USUAL), F50),
    "grey, 50 labels: flow less pixels": (nfa(F50, "b", 0.5), nfa(F50, "p", 0.5)),
    "Fashion-MNIST, 100 labels: flow": (nfa(F100, "b", 0.2), F100),
    "Fashion-MNIST, 500 labels: flow": (nfa(F500, "b", 0.2), F500),
}
COMPARED: dict[str, tuple[str, str, str]] = {}


def chosen(file: str, tail: str, *pairs: tuple[str, str]) -> None:
    """Gains of rows in a file of where.py, each at its own strength, over others."""
    for ours, other in pairs:
        name = f"{file}: {ours} over {other}"
        COMPARED[name] = (f"where/{file}-judged.csv", f"{ours}, {tail}", f"{other}, {tail}")


NONE = "nothing more"
chosen(
    "speech-10",
    "lr 0.2, 600 steps",
    ("NFA in pixels 0.25", NONE),
    ("NFA with a flow 0.5", NONE),
    ("SpecAugment 0.0625", NONE),
    ("CutMix 0.5", NONE),
    ("NFA with a flow 0.25 + CutMix 0.5", NONE),
    ("NFA with a flow 0.25 + CutMix 0.5", "CutMix 0.5"),
)
chosen(
    "speech-5",
    "lr 0.2, 600 steps",
    ("SpecAugment 0.0625", NONE),
    ("NFA with a flow 0.75 + CutMix 0.75", NONE),
)
chosen(
    "blood-finetuned-10",
    "lr 0.0003, 600 steps",
    ("RandAugment 5", NONE),
    ("NFA in pixels 0.75", NONE),
    ("NFA in pixels 0.5 + RandAugment 5", NONE),
    ("NFA in pixels 0.75", "RandAugment 5"),
)
chosen("blood-finetuned-10-long", "lr 0.0003, 1200 steps", ("NFA in pixels 0.75", NONE))
chosen(
    "clothing-finetuned-10",
    "lr 0.0003, 600 steps",
    ("RandAugment 5", NONE),
    ("NFA on latents 0.25", NONE),
    ("NFA on latents 0.5 + RandAugment 5", NONE),
    ("NFA on latents 0.5 + RandAugment 5", "RandAugment 5"),
)
chosen(
    "sign-10",
    "lr 0.1, 600 steps",
    ("RandAugment 9", NONE),
    ("NFA in pixels 0.75", NONE),
    ("NFA in pixels 0.25 + RandAugment 9", NONE),
)
chosen("sign-5", "lr 0.2, 600 steps", ("RandAugment 9", NONE), ("NFA in pixels 0.5", NONE))
chosen("blood-10", "lr 0.1, 600 steps", ("RandAugment 5", NONE), ("NFA in pixels 0.5", NONE))
chosen("blood-5", "lr 0.05, 600 steps", ("NFA in pixels 0.75", NONE), ("RandAugment 2", NONE))
for rows_of, *named in (
    ("blood-finetuned-5", "RandAugment 2", "NFA in pixels 0.75"),
    ("clothing-finetuned-5", "RandAugment 5", "NFA on latents 0.5"),
    ("clothing-finetuned-50", "RandAugment 9", "NFA on latents 0.25"),
    ("sign-finetuned-5", "RandAugment 9", "NFA in pixels 0.25"),
    ("sign-finetuned-10", "RandAugment 5", "NFA in pixels 0.5", "NFA in pixels 0.25"),
    ("sign-finetuned-50", "RandAugment 2", "NFA in pixels 0.5", "NFA in pixels 0.75"),
):
    named[2:] = [f"{named[-1]} + {named[0]}"]  # at a strength of its own, if a third is given
    steps = 300 if rows_of == "blood-finetuned-5" else 600
    chosen(rows_of, f"lr 0.0003, {steps} steps", *((row, NONE) for row in named))
for rows_of, steps, *pair in (
    ("blood-finetuned-5", 300, "NFA in pixels 0.75", "RandAugment 2"),
    ("blood-finetuned-50", 600, "NFA in pixels 0.25", NONE),
    ("blood-finetuned-50", 600, "RandAugment 5", NONE),
    ("blood-finetuned-128", 300, "NFA in pixels 0.75", NONE),
    ("clothing-finetuned-5", 600, "NFA on latents 0.5 + RandAugment 5", "RandAugment 5"),
    ("clothing-finetuned-5", 600, "NFA in pixels 0.75 + RandAugment 5", NONE),
    ("clothing-finetuned-10", 600, "NFA in pixels 0.5 + RandAugment 5", NONE),
):
    chosen(rows_of, f"lr 0.0003, {steps} steps", (pair[0], pair[1]))
for name in ("sign", "blood"):
    COMPARED[f"imbalance, {name}"] = (f"where/imbalance-{name}.csv", "softmax", "plain")


def figures() -> dict[str, str]:
    found = {name: str(gain("rivals.csv", *pair)) for name, pair in FIGURES.items()}
    for name, (file, augmentation, base) in COMPARED.items():
        found[name] = str(gain(file, compared(augmentation), compared(base)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_gain_was_measured(page: Path) -> None:
    shown = set(SHOWN.findall(page.read_text(encoding="utf-8")))
    assert shown - {*figures().values()} == set()


def test_the_guide_shows_these_figures() -> None:
    text = PAGES[1].read_text(encoding="utf-8")
    missing = {name: value for name, value in figures().items() if value not in text}
    assert set(missing) <= {"50 labels: added", "Fashion-MNIST, 100 labels: flow"}


TABLE = re.compile(r"`([\w-]+-judged\.csv)`(?:.*\n)*?\n((?:\|.*\n)+)")  # named before the table


@pytest.mark.parametrize("page", ["speech", "signs", "cells", "clothes"])
def test_every_table_of_where_is_that_of_its_rows(page: str) -> None:
    tables = TABLE.findall((RESULTS / "where" / f"{page}.md").read_text(encoding="utf-8"))
    assert tables
    for file, table in tables:
        (_, _, *bases), _, *lines = (
            [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()
        )
        with (RESULTS / "where" / file).open(encoding="utf-8") as opened:
            tail = next(csv.DictReader(opened))["augmentation"].removeprefix(NONE)
        for name, accuracy, *gains in lines:
            ours = compared(name + tail)
            found = [float(row["accuracy"]) for row in rows(f"where/{file}", **ours).values()]
            assert accuracy == f"{np.mean(found):.1f}", name
            for base, shown in zip(bases, gains, strict=True):
                other = compared(base.removeprefix("over ") + tail)
                assert shown == str(gain(f"where/{file}", ours, other)), (name, base)
