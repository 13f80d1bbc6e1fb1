"""The rows of a comparison: what a practised user would try, the cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["PIXELS", "POLICIES", "ROWS", "Policy", "Row", "Way", "rows_of", "usual_ways"]

PIXELS = "builtin:pixels"


class Policy(NamedTuple):
    """A rival of NFA.

    `code` is what to paste, in which v2 is torchvision.transforms.v2. `timm` is the option of
    timm's train.py, empty if it has none.
    """

    title: str
    code: str
    timm: str = ""


#: The rivals of NFA by name. A magnitude stands in braces.
POLICIES = {
    "randaugment": Policy(
        "RandAugment", "v2.RandAugment(2, {magnitude})", "--aa rand-n2-m{magnitude}"
    ),
    "trivialaugment": Policy("TrivialAugment", "v2.TrivialAugmentWide()"),
    "specaugment": Policy("SpecAugment", "v2.Lambda(spec_augment)"),
}


class Way(NamedTuple):
    """What a row computes.

    Attributes:
        frozen: Logistic regression on the features of a frozen network, in place of training it.
        nfa: Whether NFA is used; there is a row for each flow.
        policy: A name in `POLICIES`, applied after NFA, or empty.
    """

    frozen: bool = False
    nfa: bool = False
    policy: str = ""


#: Every row by its name in --rows, in the order of cost.
ROWS = {
    "frozen": Way(frozen=True),
    "frozen+randaugment": Way(True, policy="randaugment"),
    "frozen+specaugment": Way(True, policy="specaugment"),
    "frozen+nfa": Way(True, nfa=True),
    "none": Way(),
    "randaugment": Way(policy="randaugment"),
    "trivialaugment": Way(policy="trivialaugment"),
    "specaugment": Way(policy="specaugment"),
    "nfa": Way(nfa=True),
    "nfa+randaugment": Way(nfa=True, policy="randaugment"),
    "nfa+trivialaugment": Way(nfa=True, policy="trivialaugment"),
    "nfa+specaugment": Way(nfa=True, policy="specaugment"),
}


def usual_ways(pretrained: bool, spectrogram: bool) -> list[str]:
    """The names in `ROWS` that are compared unless some are chosen."""
    if spectrogram:
        policies = ["specaugment"]
    elif pretrained:
        policies = ["randaugment"]
    else:
        policies = ["randaugment", "trivialaugment"]
    chosen = []
    for name, way in ROWS.items():
        if way.policy in ("", *policies) and (pretrained or not way.frozen):
            chosen.append(name)
    return chosen


class Row(NamedTuple):
    """A row of the table: what is added to the safe augmentations, or to frozen features.

    `flow` is that of NFA, whose variants replace a share p of the images. `policy`, a name in
    `POLICIES`, is applied after NFA. Both can be empty.
    """

    flow: str = ""
    policy: str = ""
    frozen: bool = False

    @property
    def name(self) -> str:
        """The name in the CSV file."""
        parts = []
        if self.frozen:
            parts.append("frozen")
        if self.flow:
            parts.append(f"nfa:{self.flow}")
        if self.policy:
            parts.append(self.policy)
        return "+".join(parts) or "none"

    @property
    def added(self) -> str:
        """What is added, in words; empty for nothing."""
        parts = []
        if self.flow == PIXELS:
            parts.append("NFA in pixels")
        elif self.flow:
            parts.append(f"NFA with {self.flow}")
        if self.policy:
            parts.append(POLICIES[self.policy].title)
        return ", then ".join(parts)

    @property
    def plain(self) -> Row:
        """The row of the same classifier to which nothing is added."""
        return Row(frozen=self.frozen)


def rows_of(names: Sequence[str], flows: Sequence[str]) -> list[Row]:
    """The rows of these names in `ROWS`, in the order of cost, with a row of NFA for each flow."""
    rows = []
    for name, way in ROWS.items():
        if name not in names:
            continue
        for flow in dict.fromkeys(flows) if way.nfa else [""]:
            rows.append(Row(flow, way.policy, way.frozen))
    return rows
