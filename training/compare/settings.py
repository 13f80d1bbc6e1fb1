"""What a comparison trains, and the augmentations that it compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
#: The rivals of NFA and their titles.
POLICIES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "specaugment": "SpecAugment",
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Args:
        flow: Flows of NFA besides builtin:pixels, which mixes the images themselves: directories,
            owner/name on the Hub, or builtin:NAME. They are fitted to the labelled images.
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
        minutes: Time for everything; it decides the number of seeds.
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
        for word in self.safe:
            if word not in SAFE:
                raise ValueError(f"augment must name some of {', '.join(SAFE)}; got {word!r}")
        if "spectrogram" in self.safe and {"flip", "rotate", "colour"} & {*self.safe}:
            raise ValueError(
                "a flipped, turned or recoloured spectrogram is another sound: with "
                f"augment=spectrogram leave out flip, rotate and colour; got {self.augment!r}"
            )
        if {*_words(self.rivals)} - {*POLICIES}:
            raise ValueError(f"rivals must name some of {', '.join(POLICIES)}; got {self.rivals!r}")
        for name in ("minutes", "seeds", "variants"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise ValueError(f"lr must lie in (0, 10); got {self.lr}")
        if not 0 < self.p <= 1:
            raise ValueError(f"p must lie in (0, 1]; got {self.p}")
        if self.weights is not None:
            if self.network == "small-cnn":
                raise ValueError("weights needs the timm model that they are of: --network NAME")
            if Path(self.weights).suffix != ".safetensors":
                raise ValueError(f"weights must be a .safetensors file; got {self.weights!r}")

    @property
    def safe(self) -> tuple[str, ...]:
        """The words of `augment`."""
        return _words(self.augment)

    def augmentations(self) -> list[Augmentation]:
        """The rows of the table: the safe augmentations alone come first."""
        spectrogram = "spectrogram" in self.safe
        usual = ("specaugment",) if spectrogram else ("randaugment", "trivialaugment")
        policies = _words(self.rivals) or usual
        flows = (PIXELS, *self.flow)
        return [
            Augmentation(),
            *(Augmentation(flow=flow) for flow in flows),
            *(Augmentation(policy=policy) for policy in policies),
            *(Augmentation(flow, policy) for flow in flows for policy in policies),
        ]


@dataclass(frozen=True)
class Augmentation:
    """A row of the table: what is added to the safe augmentations.

    Attributes:
        flow: The flow of NFA, whose variants replace a share p of the images; empty for none.
        policy: A name in `POLICIES`, applied after NFA; empty for none.
    """

    flow: str = ""
    policy: str = ""

    @property
    def parts(self) -> int:
        """How many augmentations it adds."""
        return bool(self.flow) + bool(self.policy)

    @property
    def name(self) -> str:
        """The name in the CSV file."""
        return "+".join(filter(None, (self.flow and f"nfa:{self.flow}", self.policy))) or "none"

    @property
    def title(self) -> str:
        """The name in the table."""
        nfa = "NFA in pixels" if self.flow == PIXELS else f"NFA with {self.flow}"
        titles = [nfa] if self.flow else []
        titles += [POLICIES[self.policy]] if self.policy else []
        return ", then ".join(titles) or "nothing more"
