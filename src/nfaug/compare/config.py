"""What a comparison trains, and the augmentations that it compares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["PIXELS", "POLICIES", "SAFE", "Augmentation", "CompareConfig", "Policy"]

PIXELS = "builtin:pixels"
#: What `augment` may declare safe, since it keeps the class of these images, with titles.
SAFE = {
    "crop": "shifts",
    "flip": "flips",
    "rotate": "quarter turns",
    "colour": "colour changes",
    "spectrogram": "shifts",
}


class Policy(NamedTuple):
    """A rival of NFA.

    `code` is what to paste, in which v2 is torchvision.transforms.v2.
    """

    title: str
    code: str


_SPECAUGMENT = (  # SpecAugment takes floats alone
    "v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), "
    "torchaudio.transforms.SpecAugment(2, 8, 2, 8)])"
)
#: The rivals of NFA by name.
POLICIES = {
    "randaugment": Policy("RandAugment", "v2.RandAugment(2, 9)"),
    "trivialaugment": Policy("TrivialAugment", "v2.TrivialAugmentWide()"),
    "specaugment": Policy("SpecAugment", _SPECAUGMENT),
}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        checkpoint: Flows of NFA besides builtin:pixels, which mixes the images themselves:
            directories, owner/name on the Hub, or builtin:NAME. They are fitted to the labelled
            images, and need images to judge by that they were not trained on.
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

    checkpoint: tuple[str, ...] = ()
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
        for name, choices in (("augment", SAFE), ("rivals", POLICIES)):
            value = getattr(self, name)
            if not set(_words(value)) <= set(choices):
                raise ValueError(
                    f"{name} must name some of {', '.join(choices)}, with commas between them; got "
                    f"{value!r}"
                )
        for name in ("per_class", "minutes", "seeds", "steps", "lr", "p", "variants"):
            value = getattr(self, name)
            most = 1 if name == "p" else math.inf
            if value is not None and not 0 < value <= most:
                allowed = "in (0, 1]" if name == "p" else "above 0"
                raise ValueError(f"{name} must be {allowed}; got {value}")
        if self.weights is not None:
            if self.network == "small-cnn" or not str(self.weights).endswith(".safetensors"):
                raise ValueError(
                    "weights needs a timm --network and a .safetensors file; got "
                    f"{self.network!r} and {self.weights!r}"
                )
            if not Path(self.weights).is_file():
                raise FileNotFoundError(f"there is no file {self.weights!r} of weights")
        if "spectrogram" in self.safe and not {"flip", "rotate", "colour"}.isdisjoint(self.safe):
            raise ValueError(
                "a flipped or recoloured spectrogram is another sound; got "
                f"augment={self.augment!r}"
            )

    @property
    def safe(self) -> list[str]:
        """The words of `augment`."""
        return _words(self.augment)

    def augmentations(self) -> list[Augmentation]:
        """The rows of the table: the safe augmentations alone come first."""
        if self.rivals.strip():
            rivals = _words(self.rivals)
        elif "spectrogram" in self.safe:
            rivals = ["specaugment"]
        else:
            rivals = ["randaugment", "trivialaugment"]
        policies = dict.fromkeys([""])  # each once, in order
        policies |= dict.fromkeys(rivals)
        flows = dict.fromkeys(["", PIXELS])
        flows |= dict.fromkeys(self.checkpoint)
        return [Augmentation(flow, policy) for flow in flows for policy in policies]


def _words(text: str) -> list[str]:
    """The words between commas; none in an empty text."""
    if not text.strip():
        return []
    return [word.strip() for word in text.split(",")]


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
        parts = []
        if self.flow:
            parts.append(f"nfa:{self.flow}")
        if self.policy:
            parts.append(self.policy)
        return "+".join(parts) or "none"

    @property
    def title(self) -> str:
        """The name in the table."""
        parts = []
        if self.flow == PIXELS:
            parts.append("NFA in pixels")
        elif self.flow:
            parts.append(f"NFA with {self.flow}")
        if self.policy:
            parts.append(POLICIES[self.policy].title)
        return ", then ".join(parts) or "nothing more"
