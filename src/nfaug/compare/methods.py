"""The methods of a comparison: what a practised user would try, the cheapest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

PIXELS = "builtin:pixels"


class Policy(NamedTuple):
    """A rival of NFA. `code` is what to paste, in which v2 is torchvision.transforms.v2."""

    title: str
    code: str


#: The rivals of NFA by name.
POLICIES = {
    "randaugment": Policy("RandAugment", "v2.RandAugment(2, 9)"),
    "trivialaugment": Policy("TrivialAugment", "v2.TrivialAugmentWide()"),
    "specaugment": Policy("SpecAugment", "v2.Lambda(nfaug.compare.spec_augment)"),
    "mixup": Policy("MixUp", "v2.MixUp(num_classes={classes})"),
}


class Method(NamedTuple):
    """A line of the table: what is added to the safe augmentations, or frozen features.

    Attributes:
        flow: The checkpoint of NFA, whose variants replace a share p of the images, or empty.
        policy: A name in `POLICIES`, applied after NFA, or empty.
        frozen: Whether features of the frozen network are classified, in place of training.
    """

    flow: str = ""
    policy: str = ""
    frozen: bool = False

    @property
    def name(self) -> str:
        """The name in the CSV file."""
        if self.frozen:
            return "frozen"
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


#: Every method by its name in --methods, in the order of cost. NFA stands for one of each flow.
METHODS = {
    "frozen": Method(frozen=True),
    "none": Method(),
    "randaugment": Method(policy="randaugment"),
    "trivialaugment": Method(policy="trivialaugment"),
    "specaugment": Method(policy="specaugment"),
    "mixup": Method(policy="mixup"),
    "nfa": Method(PIXELS),
    "nfa+randaugment": Method(PIXELS, "randaugment"),
    "nfa+trivialaugment": Method(PIXELS, "trivialaugment"),
    "nfa+specaugment": Method(PIXELS, "specaugment"),
}


def usual_methods(pretrained: bool, spectrogram: bool) -> list[str]:
    """The names in `METHODS` that are compared unless some are chosen."""
    rival = "specaugment" if spectrogram else "randaugment"
    names = ["frozen"] if pretrained else []
    return [*names, "none", rival, "mixup", "nfa", f"nfa+{rival}"]


def methods_of(names: Collection[str], flows: Sequence[str]) -> list[Method]:
    """The methods of these names in `METHODS`, in the order of cost; NFA once for each flow."""
    methods = []
    for name, method in METHODS.items():
        if name not in names:
            continue
        for flow in dict.fromkeys(flows) if method.flow else [""]:
            methods.append(method._replace(flow=flow))
    return methods
