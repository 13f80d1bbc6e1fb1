"""Banks of variants of the labelled images, made once for each flow and settings."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nfaug
from nfaug import Checkpoint, NFAugment
from nfaug.augment.pixels import resize_levels
from nfaug.data.images import TensorImages

from .borrowed_axes import with_borrowed_axes
from .cells import Cell, options
from .data import DataSet
from .flows import flow_sha, locked

__all__ = ["BankMaker", "bank_for", "fitted_augmentation", "nfa_bank", "noise_bank", "tilted"]

# (flow or None, labelled images, settings, seed, data set) -> variants (N, V, C, H, W), uint8
BankMaker = Callable[[Checkpoint | None, TensorImages, dict[str, str], int, DataSet | None], Tensor]
VARIANTS = 10  # of each image, unless a setting says otherwise
_DRAW_SETTINGS = ("p", "hard", "fade")  # used when a batch is drawn; they do not change the bank


def bank_for(
    cell: Cell,
    maker: BankMaker,
    checkpoint: Checkpoint | None,
    labelled: TensorImages,
    work: Path,
    data: DataSet | None = None,
) -> tuple[Tensor, float, float]:
    """Variants (N, V, C, H, W) of the labelled images, the share that differs, and seconds.

    A bank is made once for each flow (its weights), set of labelled images and settings, and kept
    in `work`. One with the setting "global" also depends on where the unlabelled images are.
    """
    made = {name: value for name, value in options(cell).items() if name not in _DRAW_SETTINGS}
    unlabelled = (data.unlabelled or data.path) if data is not None and "global" in made else ""
    flow = "-" if checkpoint is None else flow_sha(checkpoint)
    images = labelled.fingerprint()
    key = repr((images, cell.arm, flow, cell.seed, sorted(made.items()), VARIANTS, unlabelled))
    file = work / "banks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    with locked(file):
        if not file.exists():
            started = time.monotonic()
            bank = maker(checkpoint, labelled, made, cell.seed, data)
            seconds = torch.tensor(time.monotonic() - started)
            part = file.with_suffix(".part")
            save_file({"bank": bank, "seconds": seconds}, part)
            part.rename(file)
    stored = load_file(file)
    bank = stored["bank"]
    changed = (bank != labelled.images[:, None]).flatten(2).any(2)
    return bank, float(changed.float().mean()), float(stored["seconds"])


@torch.no_grad()
def noise_bank(
    checkpoint: Checkpoint | None,
    labelled: TensorImages,
    settings: dict[str, str],
    seed: int,
    data: DataSet | None = None,
) -> Tensor:
    """decode(encode(x) + scale * e), e ~ N(0, I): the random variant of arXiv:2108.07958."""
    assert checkpoint is not None, "latent noise needs a flow"
    flow = checkpoint.flow.freeze()
    draws = torch.Generator().manual_seed(seed)
    scale = float(settings["scale"])
    latents = [flow.encode(part)[0] for part in labelled.images.split(128)]
    variants = []
    for _ in range(int(settings.get("variants", VARIANTS))):
        noisy = [z + scale * torch.randn(z.shape, generator=draws) for z in latents]
        variants.append(torch.cat([flow.decode(z) for z in noisy]))
    return torch.stack(variants, 1)


def nfa_bank(
    checkpoint: Checkpoint | None,
    labelled: TensorImages,
    settings: dict[str, str],
    seed: int,
    data: DataSet | None = None,
) -> Tensor:
    """Variants by `NFAugment`, with gaussians, axes and memory fitted to the labelled images."""
    assert checkpoint is not None, "NFA needs a flow"
    nfa = fitted_augmentation(checkpoint, labelled, settings, seed)
    count = int(settings.get("variants", VARIANTS))
    made = []
    for images, labels in zip(labelled.images.split(128), labelled.targets.split(128), strict=True):
        if float(settings.get("tilt", 0)):
            variants = [_tilted_variant(nfa, images, labels, settings) for _ in range(count)]
        else:  # as `nfaug bank` does: every image is encoded once
            assert nfa.generator is not None
            variants = [*nfa.variants(images, labels, itertools.repeat(nfa.generator, count))]
        made.append(torch.stack(variants, 1))
    return torch.cat(made)


def fitted_augmentation(
    checkpoint: Checkpoint, labelled: TensorImages, settings: dict[str, str], seed: int
) -> NFAugment:
    """NFA with the settings of a cell, fitted to the labelled images alone."""
    fewest = int(torch.bincount(labelled.targets).min())
    fitted = nfaug.fit(
        checkpoint.flow,
        _at_size_of(checkpoint, labelled),
        rank=min(64, fewest - 1),
        seed=seed,
        progress=False,
    )
    if "shrink" in settings:
        fitted = with_borrowed_axes(
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


def _at_size_of(checkpoint: Checkpoint, labelled: TensorImages) -> TensorImages:
    """The labelled images at the flow's size, as `NFAugment` resizes them."""
    size = checkpoint.flow.codec.image_size
    if labelled.image_size == size:
        return labelled
    levels = resize_levels(labelled.images, size)
    return TensorImages(levels, labelled.targets, labelled.classes)


def _tilted_variant(
    nfa: NFAugment, images: Tensor, labels: Tensor, settings: dict[str, str]
) -> Tensor:
    """One variant of each image, with `tilted` weights."""
    params = nfa.make_params(labels)
    values = nfa.engine.on(images.device)[1].eigenvalues[labels[params.index]]
    weights = tilted(params.weights, values, float(settings["tilt"]))
    return nfa(images, labels, params=dataclasses.replace(params, weights=weights))[0]


def tilted(weights: Tensor, eigenvalues: Tensor, tilt: float) -> Tensor:
    """w_i (lambda_i / max lambda)^(tilt / 2), or relative to the smallest where `tilt` < 0; (n, r).

    The strength falls with the eigenvalue for `tilt` < 0 and grows for `tilt` > 0. Axes without
    variance get 0.
    """
    there = eigenvalues > 0
    known = torch.where(there, eigenvalues, 1.0)
    if tilt > 0:
        first = eigenvalues.amax(1, keepdim=True)
    else:
        first = eigenvalues.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    return torch.where(there, weights * (known / first) ** (tilt / 2), 0.0)
