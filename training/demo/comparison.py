"""Does NFA help? Classifiers of a few handwritten digits, with and without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import LabelledImages, progress_bar, to_tensors
from nfaug.fitting import fit

from ..evaluation.classifier import Draw, accuracy, small_cnn, train_classifier

__all__ = ["ARMS", "Arm", "compare", "shifted"]


@dataclass(frozen=True)
class Arm:
    """A way to augment.

    Attributes:
        title: Name in the report.
        flow: Whose variants replace a share of the images: "flow", "pixels" or none.
        shift: Whether images, variants included, are shifted.
    """

    title: str
    flow: str = ""
    shift: bool = False


ARMS = {
    "none": Arm("no augmentation"),
    "pixels": Arm("NFA without a flow (builtin:pixels)", flow="pixels"),
    "flow": Arm("NFA with the flow", flow="flow"),
    "shift": Arm("shifts", shift=True),
    "shift+pixels": Arm("NFA without a flow, then shifts", flow="pixels", shift=True),
    "shift+flow": Arm("NFA with the flow, then shifts", flow="flow", shift=True),
}


def compare(
    flows: Mapping[str, Checkpoint | str],
    few: LabelledImages,
    test: tuple[Tensor, Tensor],
    *,
    steps: int,
    p: float,
    variants: int,
    seed: int,
    progress: str | None = None,
) -> dict[str, float]:
    """Test accuracy of each arm in per cent.

    All arms share the labelled images, the initial weights and the order of the images. The class
    gaussians, axes and partners of NFA come from the labelled images alone.

    Args:
        flows: The flows "flow" and "pixels", or names that `nfaug.fit` takes.
        few: The labelled images.
        test: Test images (N, C, H, W), uint8, and their labels (N,).
        steps: Optimiser steps of a classifier.
        p: Share of the images that a variant replaces.
        variants: Number of variants of each image.
        seed: Seed of weights, order and draws.
        progress: Title of a progress bar, or None.
    """
    images, labels = to_tensors(few, progress=False)
    banks = {name: _bank(flow, few, variants, seed) for name, flow in flows.items()}
    scores = {}
    with progress_bar(len(ARMS), progress or "", "classifier", shown=progress is not None) as bar:
        for name, arm in ARMS.items():
            draw = _draw(arm, images, banks[arm.flow] if arm.flow else None, p, seed)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                model = small_cnn(images.shape[1], len(few.classes))
            train_classifier(model, draw, labels, steps=steps, seed=seed)
            scores[name] = 100 * accuracy(model, *test)
            bar.update()
    return scores


def _bank(flow: Checkpoint | str, few: LabelledImages, variants: int, seed: int) -> Tensor:
    """Variants (N, V, C, H, W) of the labelled images."""
    images, labels = to_tensors(few, progress=False)
    fewest = int(torch.bincount(labels).min())
    fitted = fit(flow, few, rank=fewest - 1, progress=False)
    nfa = NFAugment(fitted, p=1.0, generator=torch.Generator().manual_seed(seed))
    return torch.stack([nfa(images, labels)[0] for _ in range(variants)], 1)


def _draw(arm: Arm, images: Tensor, bank: Tensor | None, p: float, seed: int) -> Draw:
    draws = torch.Generator().manual_seed(seed)

    def draw(rows: Tensor) -> Tensor:
        batch = images[rows]
        if bank is not None:
            variant = torch.randint(bank.shape[1], rows.shape, generator=draws)
            replaced = torch.rand(len(rows), generator=draws) < p
            batch = torch.where(replaced[:, None, None, None], bank[rows, variant], batch)
        return shifted(batch, draws) if arm.shift else batch

    return draw


def shifted(images: Tensor, draws: torch.Generator) -> Tensor:
    """Shift each image by -1, 0 or 1 pixel in both directions; the border is black."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(3, (len(images), 2), generator=draws).tolist()
    return torch.stack(
        [
            image[:, down : down + height, right : right + width]
            for image, (down, right) in zip(padded, offsets, strict=True)
        ]
    )
