"""What a comparison trains, and the augmentations that it compares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["PIXELS", "POLICIES", "SAFE", "Augmentation", "CompareSettings"]

PIXELS = "builtin:pixels"
#: What `augment` may declare safe, since it keeps the class of these images, with titles.
SAFE = {
    "crop": "shifts",
    "flip": "flips",
    "rotate": "quarter turns",
    "colour": "colour changes",
    "spectrogram": "shifts",
}
_SPECAUGMENT = (  # takes floats alone
    "v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), "
    "torchaudio.transforms.SpecAugment(2, 8, 2, 8)])"
)
#: The rivals of NFA: titles, and code to paste, in which v2 is torchvision.transforms.v2.
POLICIES = {
    "randaugment": ("RandAugment", "v2.RandAugment(2, 9)"),
    "trivialaugment": ("TrivialAugment", "v2.TrivialAugmentWide()"),
    "specaugment": ("SpecAugment", _SPECAUGMENT),
}


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Args:
        flow: Flows of NFA besides builtin:pixels, which mixes the images themselves: directories,
            owner/name on the Hub, or builtin:NAME. They are fitted to the labelled images, and need
            images to judge by that they were not trained on.
        per_class: Labelled images of each class; null for all that are not held out.
        network: The classifier: small-cnn, or the name of a timm model.
        weights: A .safetensors file of the timm model's pretrained weights, which are fine-tuned;
            null to train from random weights.
        augment: What keeps the class of these images, and is applied in every row, comma-separated:
            crop (shifts by up to an eighth), flip (left-right), rotate (quarter turns and
            flips), colour (brightness, contrast, saturation); spectrogram stands for shifts, and
            brings SpecAugment (masks of time and frequency) in place of RandAugment and
            TrivialAugment.
        rivals: What NFA is compared with, comma-separated: randaugment, trivialaugment,
            specaugment; empty for those that suit `augment`.
        minutes: Time for everything; it decides the number of seeds. The first always ends.
        seeds: The most repetitions, each with its own labelled images, weights and draws.
        steps: Optimiser steps of a classifier; null for ten passes over the labelled images, at
            least 300 and at most 2,000.
        lr: Peak learning rate; null for 0.1 (small-cnn), 1e-3 (a timm model), or 3e-4 (pretrained,
            with thirty times as much for the new head).
        p: Probability that NFA replaces an image by one of its variants.
        variants: Variants of each image.
        device: cpu, cuda, ...; auto is the GPU if there is one.

    Raises:
        ValueError: A setting is out of range.
        FileNotFoundError: There are no such weights.
    """

    flow: tuple[str, ...] = ()
    per_class: int | None = None
    network: str = "small-cnn"
    weights: str | None = None
    augment: str = "crop"
    rivals: str = ""
    minutes: float = 10.0
    seeds: int = 10
    steps: int | None = None
    lr: float | None = None
    p: float = 0.5
    variants: int = 20
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("augment", SAFE), ("rivals", POLICIES)):
            value = getattr(self, name)
            if not {*_words(value)} <= {*known}:
                raise ValueError(
                    f"{name} must name some of {', '.join(known)}, with commas between them; got "
                    f"{value!r}"
                )
        for name in ("per_class", "minutes", "seeds", "steps", "lr", "p", "variants"):
            value = getattr(self, name)
            most = 1 if name == "p" else math.inf
            if value is not None and not 0 < value <= most:
                allowed = "in (0, 1]" if name == "p" else "above 0"
                raise ValueError(f"{name} must be {allowed}; got {value}")
        fits = self.network != "small-cnn" and str(self.weights).endswith(".safetensors")
        if self.weights is not None and not fits:
            given = f"{self.network!r} and {self.weights!r}"
            raise ValueError(f"weights needs a timm --network and a .safetensors file; got {given}")
        if self.weights is not None and not Path(self.weights).is_file():
            raise FileNotFoundError(f"there is no file {self.weights!r} of weights")
        if "spectrogram" in self.safe and {"flip", "rotate", "colour"} & {*self.safe}:
            given = f"got augment={self.augment!r}"
            raise ValueError(f"a flipped or recoloured spectrogram is another sound; {given}")

    @property
    def safe(self) -> list[str]:
        """The words of `augment`."""
        return _words(self.augment)

    def augmentations(self) -> list[Augmentation]:
        """The rows of the table: the safe augmentations alone come first."""
        usual = "specaugment" if "spectrogram" in self.safe else "randaugment,trivialaugment"
        rivals = dict.fromkeys(["", *(_words(self.rivals) or _words(usual))])
        flows = dict.fromkeys(["", PIXELS, *self.flow])
        return [Augmentation(flow, rival) for flow in flows for rival in rivals]


def _words(text: str) -> list[str]:
    """The words between commas; none in an empty text."""
    return [word.strip() for word in text.split(",")] if text.strip() else []


class Augmentation(NamedTuple):
    """A row of the table: what is added to the safe augmentations.

    `flow` is that of NFA, whose variants replace a share p of the images. `policy`, a name in
    `POLICIES`, is applied after NFA. Both can be empty.
    """

    flow: str = ""
    policy: str = ""

    @property
    def name(self) -> str:
        """The name in the CSV file."""
        return "+".join(filter(None, (self.flow and f"nfa:{self.flow}", self.policy))) or "none"

    @property
    def title(self) -> str:
        """The name in the table."""
        nfa = "NFA in pixels" if self.flow == PIXELS else self.flow and f"NFA with {self.flow}"
        policy = self.policy and POLICIES[self.policy][0]
        return ", then ".join(filter(None, (nfa, policy))) or "nothing more"
