"""The arms of the study: how a batch is drawn from the labelled images of a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.data.images import TensorImages

from .banks import BankMaker, nfa_bank, noise_bank
from .candidates import latent_bank
from .cells import Cell, options
from .classifiers import BatchDraw

__all__ = ["ARMS", "Arm", "losses", "make_draw", "pixel_mixup"]

# The loss of each image under the classifier in training: (images, labels) -> (B,)
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Arm:
    """One way to augment the labelled images; exactly one of `draw` and `bank` is set.

    Attributes:
        title: Name in the report.
        draw: Makes the `BatchDraw` of an arm that needs no bank, from images and settings.
        bank: Makes the variants of an arm that draws them from a bank (`banks.py`).
    """

    title: str
    draw: Callable[[TensorImages, dict[str, str]], BatchDraw] | None = None
    bank: BankMaker | None = None


def unchanged(labelled: TensorImages, settings: dict[str, str]) -> BatchDraw:
    """The labelled images themselves."""
    return lambda rows, *_: labelled.images[rows]


def mixup(labelled: TensorImages, settings: dict[str, str]) -> BatchDraw:
    """`pixel_mixup` with the settings p, alpha and strength."""
    images, labels = labelled.images, labelled.targets
    p, alpha = float(settings.get("p", 1)), float(settings["alpha"])
    strength = float(settings.get("strength", 1))
    return lambda rows, draws, _: pixel_mixup(images, labels, rows, p, alpha, draws, strength)


ARMS = {
    "none": Arm("none", draw=unchanged),
    "mixup": Arm("same-class pixel mixup", draw=mixup),
    "noise": Arm("latent gaussian noise", bank=noise_bank),
    "nfa": Arm("NFA", bank=nfa_bank),
    "latent": Arm("mixing of latents", bank=latent_bank),
    "nfa+noise": Arm("NFA with noise", bank=nfa_bank),
}


def make_draw(cell: Cell, labelled: TensorImages, bank: Tensor | None, loss: Loss) -> BatchDraw:
    """How the arm of a cell turns rows of the labelled images into a batch."""
    arm, settings = ARMS[cell.arm], options(cell)
    if arm.draw is not None:
        return arm.draw(labelled, settings)
    assert bank is not None, f"arm {cell.arm} needs a bank"
    return from_bank(bank, labelled, settings, loss)


def from_bank(
    bank: Tensor, labelled: TensorImages, settings: dict[str, str], loss: Loss
) -> BatchDraw:
    """Replace a share `p` of the images by one of their variants.

    With the setting "hard", that many variants of an image are drawn, and the one with the largest
    `loss(images, labels)` is taken. With "fade", p falls linearly to 0 during training.
    """
    images, labels = labelled.images, labelled.targets
    p, fades = float(settings.get("p", 1)), "fade" in settings
    several = int(settings.get("hard", 1))

    def draw(rows: Tensor, draws: torch.Generator, done: float) -> Tensor:
        now = p * (1 - done) if fades else p
        swapped = torch.rand(len(rows), generator=draws) < now
        variant = torch.randint(bank.shape[1], (several, len(rows)), generator=draws)
        drawn = bank[rows, variant]
        if several > 1:
            known = labels[rows].repeat(several)
            worst = loss(drawn.flatten(0, 1), known).view(several, -1).argmax(0)
            drawn = drawn[worst, torch.arange(len(rows))]
        else:
            drawn = drawn[0]
        return torch.where(swapped[:, None, None, None], drawn, images[rows])

    return draw


def pixel_mixup(
    images: Tensor,
    labels: Tensor,
    rows: Tensor,
    p: float,
    alpha: float,
    draws: torch.Generator,
    strength: float = 1.0,
) -> Tensor:
    """x + s w (x' - x), w ~ Beta(alpha, alpha), for a share p; x' is another image of the class."""
    allowed = labels[rows][:, None] == labels[None, :]
    allowed[torch.arange(len(rows)), rows] = False
    partner = torch.multinomial(allowed.float(), 1, generator=draws)[:, 0]
    gammas = torch._standard_gamma(torch.full((2, len(rows)), alpha), generator=draws)
    weight = gammas[0] / gammas.sum(0).clamp(min=1e-30)
    weight = strength * weight * (torch.rand(len(rows), generator=draws) < p)
    own = images[rows].float()
    mixed = own + weight[:, None, None, None] * (images[partner].float() - own)
    return mixed.round().clamp(0, 255).to(torch.uint8)


def losses(model: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Loss:
    """The cross-entropy of each image under the model in evaluation mode."""

    @torch.no_grad()
    def loss(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        found = F.cross_entropy(model(prepare(images)), labels, reduction="none")
        model.train()
        return found

    return loss
