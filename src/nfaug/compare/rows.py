"""The rows of a comparison: what a practised user would try, the cheapest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

PIXELS = "builtin:pixels"


class Policy(NamedTuple):
    """A rival of NFA.

    `code` is what to paste, in which v2 is torchvision.transforms.v2. `timm` is the option of
    timm's train.py, empty if it has none.
    """

    title: str
    code: str
    timm: str = ""


#: The rivals of NFA by name.
POLICIES = {
    "randaugment": Policy("RandAugment", "v2.RandAugment(2, 9)", "--aa rand-n2-m9"),
    "trivialaugment": Policy("TrivialAugment", "v2.TrivialAugmentWide()"),
    "specaugment": Policy("SpecAugment", "v2.Lambda(nfaug.compare.spec_augment)"),
    "mixup": Policy("MixUp", "v2.MixUp(num_classes={classes})", "--mixup 1"),
}


class Row(NamedTuple):
    """A row of the table: what is added to the safe augmentations, or to frozen features.

    Attributes:
        flow: The checkpoint of NFA, whose variants replace a share p of the images, or empty.
        policy: A name in `POLICIES`, applied after NFA, or empty.
        frozen: In place of training: "own" for features of the frozen network at its own
            resolution, "small" for those at the size at which the other rows are trained.
    """

    flow: str = ""
    policy: str = ""
    frozen: str = ""

    @property
    def name(self) -> str:
        """The name in the CSV file."""
        if self.frozen:
            return "frozen" if self.frozen == "own" else "frozen-small"
        flow = f"nfa:{self.flow}" if self.flow else ""
        return "+".join(filter(None, [flow, self.policy])) or "none"

    @property
    def added(self) -> str:
        """What is added, in words; empty for nothing."""
        flow = f"NFA with {self.flow}" if self.flow else ""
        if self.flow == PIXELS:
            flow = "NFA in pixels"
        policy = POLICIES[self.policy].title if self.policy else ""
        return ", then ".join(filter(None, [flow, policy]))


#: Every row by its name in --rows, in the order of cost. NFA stands for a row of each flow.
ROWS = {
    "frozen": Row(frozen="own"),
    "none": Row(),
    "randaugment": Row(policy="randaugment"),
    "trivialaugment": Row(policy="trivialaugment"),
    "specaugment": Row(policy="specaugment"),
    "mixup": Row(policy="mixup"),
    "nfa": Row(PIXELS),
    "nfa+randaugment": Row(PIXELS, "randaugment"),
    "nfa+trivialaugment": Row(PIXELS, "trivialaugment"),
    "nfa+specaugment": Row(PIXELS, "specaugment"),
}


def usual_rows(pretrained: bool, spectrogram: bool) -> list[str]:
    """The names in `ROWS` that are compared unless some are chosen."""
    rival = "specaugment" if spectrogram else "randaugment"
    names = ["frozen"] if pretrained else []
    return [*names, "none", rival, "mixup", "nfa", f"nfa+{rival}"]


def rows_of(names: Collection[str], flows: Sequence[str]) -> list[Row]:
    """The rows of these names in `ROWS`, in the order of cost, with a row of NFA for each flow."""
    rows = []
    for name, row in ROWS.items():
        if name not in names:
            continue
        for flow in dict.fromkeys(flows) if row.flow else [""]:
            rows.append(row._replace(flow=flow))
    return rows


def titles_of(
    rows: Sequence[Row], shape: tuple[int, int, int], *, pretrained: bool
) -> dict[Row, str]:
    """The names of rows in the table. Where sizes differ, they say which one they have."""
    own = small = ""
    if Row(frozen="small") in rows:
        own = " at the network's own resolution"
        small = f" at {shape[1]} x {shape[2]} pixels"
    found = {}
    for row in rows:
        if row.frozen:
            found[row] = f"frozen features{own if row.frozen == 'own' else small}"
        elif pretrained:
            found[row] = ", ".join(filter(None, [f"fine-tuned{small}", row.added]))
        else:
            found[row] = row.added or "nothing more"
    return found
