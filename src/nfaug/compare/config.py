"""What a comparison trains, and how long."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from nfaug.io.numbers import check_number, check_whole
from nfaug.io.text import did_you_mean

from .methods import METHODS, PIXELS, Method, methods_of, usual_methods

MOST_SEEDS = 10**4

#: What to use in place of settings of earlier versions.
GONE = {
    "minutes": "a comparison has no time limit: seeds (--seeds) decides how much is trained",
    "rows": "rows are now methods: methods='none,nfa' (--methods)",
}

#: The label-preserving augmentations that `augment` may name, with titles.
SAFE = {
    "crop": "translations",
    "flip": "flips",
    "rotate": "90-degree rotations",
    "color": "color changes",
    "spectrogram": "translations",
}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        checkpoint: Checkpoints to compare besides builtin:pixels: folders, owner/name on the Hub,
            or builtin:NAME. They are fitted to the labelled images, and need test images
            that they were not trained on.
        per_class: Labelled images per class, at most; None for all but the test images.
        network: The classifier: small-cnn, or the name of a timm model.
        weights: A .safetensors file of the timm model's pretrained weights. Its features are
            compared frozen, and the network fine-tuned; None to train from random weights.
        augment: Augmentations that never change the class of these images (label-preserving), which
            every method that trains has, comma-separated: crop (translations by up to an eighth),
            flip (left-right), rotate (90-degree rotations and flips), color (brightness, contrast,
            saturation); spectrogram stands for translations, and brings SpecAugment (masks of time
            and frequency) instead of RandAugment.
        methods: What is compared, comma-separated, of frozen (features of a frozen network), none,
            randaugment, trivialaugment, specaugment, mixup, nfa, nfa+randaugment,
            nfa+trivialaugment and nfa+specaugment; empty for those that suit network and `augment`.
        test_images: The most test images, drawn at random; more take time.
        seeds: Repetitions, each with its own labelled images, weights and draws. There is advice
            after all of them: ten find most gains of 5 points, five a third, three a tenth.
        steps: Optimiser steps of a classifier; None for 150 passes over the labelled images, at
            least 800 (from pretrained weights 10 passes, at least 300) and at most 2,000.
        lr: Peak learning rate; None for 0.1 (small-cnn), 1e-3 (a timm model), or 6e-4 (pretrained).
        p: Probability that NFA replaces an image by one of its variants.
        variants: Variants per image.
        device: cpu, cuda, ...; auto is the GPU if there is one.

    Raises:
        ValueError: A setting is out of range.
        FileNotFoundError: There are no such weights.

    Example:
        >>> from nfaug.compare import CompareConfig
        >>> config = CompareConfig(per_class=10, methods="none,nfa", seeds=5)
        >>> config.augment, config.seeds
        ('crop', 5)
    """

    checkpoint: tuple[str, ...] = ()
    per_class: int | None = None
    network: str = "small-cnn"
    weights: str | None = None
    augment: str = "crop"
    methods: str = ""
    test_images: int = 2000
    seeds: int = 10
    steps: int | None = None
    lr: float | None = None
    p: float = 0.5
    variants: int = 20
    device: str = "auto"

    def __post_init__(self) -> None:
        names: object = self.checkpoint
        if isinstance(names, str):  # whose letters would be names
            raise ValueError(f"checkpoint must be a tuple of names; got {names!r}")
        _check_words("augment", self.augment, SAFE)
        _check_words("methods", self.methods, METHODS)
        self._check_numbers()
        if self.weights is not None:
            if self.network == "small-cnn" or not str(self.weights).endswith(".safetensors"):
                raise ValueError(
                    "weights needs a timm --network and a .safetensors file; got "
                    f"{self.network!r} and {self.weights!r}"
                )
            if not Path(self.weights).is_file():
                raise FileNotFoundError(f"there is no file {self.weights!r} of weights")
        elif "frozen" in _words(self.methods):
            raise ValueError(
                f"methods {self.methods!r}: frozen features need weights (--weights), pretrained "
                "ones"
            )
        if "spectrogram" in self.safe and not {"flip", "rotate", "color"}.isdisjoint(self.safe):
            raise ValueError(
                f"a flipped or recolored spectrogram is another sound; got augment={self.augment!r}"
            )

    def _check_numbers(self) -> None:
        # Larger numbers cannot be meant, and would end in an error in the middle, or never.
        counts = {"per_class": 10**6, "test_images": 10**5, "seeds": MOST_SEEDS, "steps": 10**6}
        for name, most in {**counts, "variants": 1000}.items():
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, 1, most)
        for name, limit in {"lr": 10, "p": 1}.items():
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 0, limit, open_low=True)

    @property
    def pretrained(self) -> bool:
        """Whether the network has pretrained weights."""
        return self.weights is not None

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: `lr`, or the default of the network."""
        if self.lr is not None:
            return self.lr
        if self.network == "small-cnn":
            return 0.1
        return 6e-4 if self.pretrained else 1e-3

    @property
    def safe(self) -> list[str]:
        """The words of `augment`."""
        return _words(self.augment)

    def table(self) -> list[Method]:
        """The methods of the table, in the order of cost.

        Returns:
            The methods; others gain over the first one.
        """
        usual = usual_methods(self.pretrained, "spectrogram" in self.safe)
        return methods_of(_words(self.methods) or usual, [PIXELS, *self.checkpoint])


_init = CompareConfig.__init__


@wraps(_init)
def _without_old_names(self: CompareConfig, *args: Any, **settings: Any) -> None:
    for name in GONE.keys() & settings.keys():
        raise TypeError(f"CompareConfig has no {name}: {GONE[name]}")
    _init(self, *args, **settings)


CompareConfig.__init__ = _without_old_names  # type: ignore[method-assign]


def _words(text: str) -> list[str]:
    """The words between commas; none in an empty text."""
    if not text.strip():
        return []
    return [word.strip() for word in text.split(",")]


def _check_words(name: str, value: str, choices: Collection[str]) -> None:
    for word in _words(value):
        if word not in choices:
            raise ValueError(
                f"{name} must name some of {', '.join(choices)}, with commas between them; "
                f"got {word!r}{did_you_mean(word, choices)}"
            )
