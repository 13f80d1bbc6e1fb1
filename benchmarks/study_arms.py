"""Arms of the study: how a batch is drawn from a cell's labelled images, and from nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from study_borrow import with_borrowed
from study_cells import Cell, options
from study_flows import locked
from torch import Tensor, nn
from torch.nn import functional as F

import nfaug
from nfaug import Checkpoint, NFAugment
from nfaug.data.images import TensorImages

__all__ = ["Draw", "bank_for", "losses", "make_draw", "pixel_mixup"]

# (rows (B,), generator, share of the steps that are done) -> uint8 images (B, C, H, W)
Draw = Callable[[Tensor, torch.Generator, float], Tensor]
VARIANTS = 10  # of each image, unless a setting says otherwise
_DRAWN = ("p", "hard", "fade")  # settings that concern the draw, and not the bank


def make_draw(
    cell: Cell, labelled: TensorImages, bank: Tensor | None, loss: Callable[..., Tensor]
) -> Draw:
    """How the arm turns rows of the labelled images into a batch.

    `loss(images, labels)` is what the classifier in training makes of each, (B,): with the setting
    "hard", that many variants are drawn of an image, and the one of the largest loss is taken. With
    "fade" the share of variants falls to 0 along a line.
    """
    images, labels = labelled.images, labelled.targets
    chosen = options(cell)
    share = float(chosen.get("p", 1))
    if cell.arm == "none":
        return lambda rows, *_: images[rows]
    if cell.arm == "mixup":
        alpha = float(chosen["alpha"])
        return lambda rows, draws, _: pixel_mixup(images, labels, rows, share, alpha, draws)
    assert bank is not None, f"arm {cell.arm} needs a bank"

    several, fades = int(chosen.get("hard", 1)), "fade" in chosen

    def from_bank(rows: Tensor, draws: torch.Generator, done: float) -> Tensor:
        now = share * (1 - done) if fades else share
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

    return from_bank


def pixel_mixup(
    images: Tensor, labels: Tensor, rows: Tensor, p: float, alpha: float, draws: torch.Generator
) -> Tensor:
    """x + w (x' - x) with another image x' of the class, w ~ Beta(alpha, alpha), for a share p."""
    allowed = labels[rows][:, None] == labels[None, :]
    allowed[torch.arange(len(rows)), rows] = False
    partner = torch.multinomial(allowed.float(), 1, generator=draws)[:, 0]
    gammas = torch._standard_gamma(torch.full((2, len(rows)), alpha), generator=draws)
    weight = gammas[0] / gammas.sum(0).clamp(min=1e-30)
    weight = weight * (torch.rand(len(rows), generator=draws) < p)
    own = images[rows].float()
    mixed = own + weight[:, None, None, None] * (images[partner].float() - own)
    return mixed.round().to(torch.uint8)


def bank_for(
    cell: Cell, checkpoint: Checkpoint, labelled: TensorImages, work: Path
) -> tuple[Tensor, float, float]:
    """Variants (N, V, C, H, W) of the labelled images, the share that differs, and seconds.

    Made once per flow, labelled images and settings, and kept in `work`; `p`, which is the share of
    a batch that is swapped, and what comes after the arm do not change it.
    """
    made = {name: value for name, value in options(cell).items() if name not in _DRAWN}
    key = repr((cell.data, cell.arm, cell.flow, cell.per_class, cell.seed, sorted(made.items())))
    file = work / "banks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    with locked(file):
        if not file.exists():
            started = time.monotonic()
            maker = _noise_bank if cell.arm == "noise" else _nfa_bank
            bank = maker(checkpoint, labelled, made, cell.seed)
            seconds = torch.tensor(time.monotonic() - started)
            part = file.with_suffix(".part")
            save_file({"bank": bank, "seconds": seconds}, part)
            part.rename(file)
    stored = load_file(file)
    bank = stored["bank"]
    changed = (bank != labelled.images[:, None]).flatten(2).any(2)
    return bank, float(changed.float().mean()), float(stored["seconds"])


@torch.no_grad()
def _noise_bank(
    checkpoint: Checkpoint, labelled: TensorImages, settings: dict[str, str], seed: int
) -> Tensor:
    """decode(encode(x) + scale * e), e ~ N(0, I): the random variant of arXiv:2108.07958."""
    flow = checkpoint.flow.freeze()
    draws = torch.Generator().manual_seed(seed)
    scale = float(settings["scale"])
    latents = [flow.encode(part)[0] for part in labelled.images.split(128)]
    variants = []
    for _ in range(int(settings.get("variants", VARIANTS))):
        noisy = [z + scale * torch.randn(z.shape, generator=draws) for z in latents]
        variants.append(torch.cat([flow.decode(z) for z in noisy]))
    return torch.stack(variants, 1)


def _nfa_bank(
    checkpoint: Checkpoint, labelled: TensorImages, settings: dict[str, str], seed: int
) -> Tensor:
    """Variants by `NFAugment`, with gaussians, axes and memory fitted to the labelled images."""
    nfa = fitted_augmentation(checkpoint, labelled, settings, seed)
    variants = []
    for _ in range(int(settings.get("variants", VARIANTS))):
        parts = zip(labelled.images.split(128), labelled.targets.split(128), strict=True)
        variants.append(torch.cat([_variant(nfa, *part, settings) for part in parts]))
    return torch.stack(variants, 1)


def _variant(nfa: NFAugment, images: Tensor, labels: Tensor, settings: dict[str, str]) -> Tensor:
    """A variant of each image, with weights that are `tilted` where a setting says so."""
    params = nfa.make_params(labels)
    if tilt := float(settings.get("tilt", 0)):
        values = nfa.engine.on(images.device)[1].eigenvalues[labels[params.index]]
        params = dataclasses.replace(params, weights=tilted(params.weights, values, tilt))
    return nfa(images, labels, params=params)[0]


def tilted(weights: Tensor, eigenvalues: Tensor, tilt: float) -> Tensor:
    """w_i (lambda_i / max lambda)^(tilt / 2), or relative to the smallest where `tilt` < 0; (n, r).

    Strength that falls with the eigenvalue, or grows. Axes without variance get 0.
    """
    there = eigenvalues > 0
    known = torch.where(there, eigenvalues, 1.0)
    if tilt > 0:
        first = eigenvalues.amax(1, keepdim=True)
    else:
        first = eigenvalues.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    return torch.where(there, weights * (known / first) ** (tilt / 2), 0.0)


def losses(model: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The cross-entropy of each image, as the model would have it in evaluation."""

    @torch.no_grad()
    def loss(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        found = F.cross_entropy(model(prepare(images)), labels, reduction="none")
        model.train()
        return found

    return loss


def fitted_augmentation(
    checkpoint: Checkpoint, labelled: TensorImages, settings: dict[str, str], seed: int
) -> NFAugment:
    """NFA with the settings of a cell, fitted to the labelled images and to nothing else."""
    fewest = int(torch.bincount(labelled.targets).min())
    fitted = nfaug.fit(
        checkpoint.flow, labelled, rank=min(64, fewest - 1), seed=seed, progress=False
    )
    if "shrink" in settings:
        fitted = with_borrowed(
            fitted,
            labelled.images,
            labelled.targets,
            shrink=float(settings["shrink"]),
            rank=int(settings["rank"]),
            partners=settings["partners"],
        )
    return NFAugment(
        fitted,
        p=1.0,
        alpha=float(settings.get("alpha", 1)),
        mix=settings.get("mix", "axis"),
        strength=float(settings.get("strength", 1)),
        noise=float(settings.get("noise", 0)),
        axes=int(settings["axes"]) if "axes" in settings else None,
        gate=False if settings.get("gate") == "off" else float(settings.get("gate", 1)),
        keep=settings.get("keep", "all"),
        generator=torch.Generator().manual_seed(seed),
    )
