"""NFA as an albumentations transform: one image at a time, in the loader's workers, on the CPU.

This is the slow path. An image alone costs far more than its share of a batch, and a worker has no
accelerator: `NFAugment` on batches, or a bank (`nfaug.bank`), does the same for less. Use it where
a pipeline is albumentations from end to end and NFA has to stand in its middle, or to try it out:

    A.Compose([A.RandomResizedCrop((32, 32)), NFATransform("my-flow", p=0.5), A.Normalize()])

called with `image=` and `label=`. Where the training loop can be edited, `NFAugment` belongs in it,
behind the loader: all the rest stays with albumentations, and NFA takes its normalised batches
(`mean=`, `std=`). Where only the data set can, `BankDataset` swaps images for variants before
albumentations sees them.

A worker loads the flow at its first image and keeps it: give the loader `persistent_workers=True`.
It sees no batch, so partners come from the checkpoint's memory, which `nfaug fit` makes. The
transform stands before `A.Normalize`; behind or before the crop: docs/where-in-the-pipeline.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import albumentations
import numpy as np
import torch

from ..augment.settings import checked_gate
from ..augment.transform import NFAParams, NFAugment
from ..data.checks import check_choice, check_number

__all__ = ["NFATransform"]


class NFATransform(albumentations.ImageOnlyTransform):
    """Mix an image with one of its class from the checkpoint's memory: `t(image=x, label=3)`.

    The label is an argument of the call and stays as it is. Images are uint8, or float32 in [0, 1],
    of shape (H, W, C) or (H, W). The flow is loaded at the first image, once in each process.
    `to_dict` and `from_dict` keep the checkpoint by its name.

    Args:
        checkpoint: directory or Hub repository; its PCA must have a memory, unless strength is 0.
        alpha, mix, strength, noise, gate: as `NFAugment`'s.
        label_key: name under which the label is passed.
        revision: branch, tag or commit of the Hub repository.
        p: probability of applying the transform.

    Raises:
        ValueError: a setting is out of range; at a call: no label, or one that is no class; the
            sample has masks, boxes or keypoints; the checkpoint has no memory.
    """

    class InitSchema(albumentations.ImageOnlyTransform.InitSchema):
        """Types of the settings; `__init__` checks the values as `NFAugment` does."""

        checkpoint: str
        alpha: float
        mix: Literal["axis", "pair"]
        strength: float
        noise: float
        gate: bool | float | None
        label_key: str
        revision: str | None

    def __init__(
        self,
        checkpoint: str,
        alpha: float = 1.0,
        mix: Literal["axis", "pair"] = "axis",
        strength: float = 1.5,
        noise: float = 0.0,
        gate: bool | float | None = True,
        label_key: str = "label",
        revision: str | None = None,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.checkpoint = checkpoint
        self.alpha = check_number("alpha", alpha, 0, math.inf, open_low=True)
        self.mix = check_choice("mix", mix, ("axis", "pair"))
        self.strength = check_number("strength", strength, 0, math.inf)
        self.noise = check_number("noise", noise, 0, math.inf)
        self.gate = checked_gate(gate)
        self.label_key = label_key
        self.revision = revision

    @property
    def nfa(self) -> NFAugment:
        """This process's copy of the augmentation."""
        return _load(self.checkpoint, self.revision, self.gate, self.strength == 0)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """Only single images: several have several labels."""
        return {"image": self.apply}

    @property
    def targets_as_params(self) -> list[str]:
        """The label must be passed."""
        return [self.label_key]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw a partner of the label's class and the weights, from `self.random_generator`."""
        for key in ("mask", "masks", "bboxes", "keypoints"):
            if data.get(key) is not None:
                raise ValueError(
                    f"the sample has {key!r}: masks, boxes and keypoints cannot follow an image "
                    "through NFA, which is for classification"
                )
        nfa, label = self.nfa, data[self.label_key]
        if not isinstance(label, (int, np.integer)) or not 0 <= label < nfa.num_classes:
            raise ValueError(
                f"{self.label_key} must be a whole number in [0, {nfa.num_classes}), the class of "
                f"the image; got {label!r}"
            )
        # Noise alone needs no partner, and then there may be no memory.
        rows = nfa.memory_range(int(label)) if nfa.engine.has_memory else (0, 0)
        first, second = self._rows(*rows)
        draw = self.random_generator
        dim = nfa.engine.config.dim if self.noise else 0
        weights = draw.beta(self.alpha, self.alpha, 1 if self.mix == "pair" else nfa.rank)
        return {
            "label": int(label),
            "partner": first,
            "other": second,
            "weights": (self.strength * weights).astype(np.float32),
            "noise": self.noise * draw.standard_normal(dim, dtype=np.float32),
        }

    def _rows(self, start: int, end: int) -> tuple[int, int]:
        """Two rows of the class's memory, different ones where there are two; -1 for none."""
        count, draw = end - start, self.random_generator
        if count < 1:
            return -1, -1
        first = int(draw.integers(count))
        step = int(draw.integers(1, count)) if count > 1 else 0
        return start + first, start + (first + step) % count

    def apply(
        self,
        img: np.ndarray,
        label: int,
        partner: int,
        other: int,
        weights: np.ndarray,
        noise: np.ndarray,
        **params: Any,
    ) -> np.ndarray:
        """The image moved towards the partner."""
        image = torch.from_numpy(np.array(img if img.ndim == 3 else img[..., None]))
        yes = torch.ones(1, dtype=torch.bool)
        drawn = NFAParams(
            batch=1,
            index=torch.zeros(1, dtype=torch.int64),
            chosen=yes,
            partner=torch.tensor([max(0, partner)]),
            other=torch.tensor([max(0, other)]),
            from_memory=yes & self.nfa.engine.has_memory,
            paired=yes & (partner >= 0),
            weights=torch.from_numpy(weights)[None],
            noise=torch.from_numpy(np.asarray(noise, dtype=np.float32))[None],
        )
        batch = image.permute(2, 0, 1)[None]
        new, _ = self.nfa(batch, torch.tensor([label]), params=drawn)
        return new[0].permute(1, 2, 0).numpy().reshape(img.shape)


@functools.lru_cache(maxsize=4)
def _load(checkpoint: str, revision: str | None, gate: float | None, alone: bool) -> NFAugment:
    """One copy in each process: workers that are spawned load it at their first image."""
    return NFAugment.from_pretrained(
        checkpoint,
        revision=revision,
        p=1.0,
        partners="auto" if alone else "memory",
        gate=gate,
    )
