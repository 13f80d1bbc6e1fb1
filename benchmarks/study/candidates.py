"""Candidates for better mixing, on latents directly; those that win move into the package.

Settings of the arm "latent", which mixes every image with another one of its class:

- strength: w ~ U(0, strength) on each axis of the class's PCA; the default is 1.5.
- variance=1: divide the mixed deviation from the class mean by sqrt(w^2 + (1 - w)^2), w ~ U(0, 1),
  which keeps the variance of independent coefficients exactly.
- mix=pair: one weight for all axes.
- levels=coarsest or coarse: mix the latents of the coarsest level alone, or of all but the finest,
  with a PCA of theirs. A flow of two levels has the same latents in both.
- axes=image: rotate the axes so that their coefficients are those of the PCA of the images: large,
  smooth changes of the image then have axes of their own.
- near=5: take the partner from the five nearest images of the class, in the latent space.
- global=256 shrink=0.5: 256 axes of (1 - shrink) C_y + shrink C, with C the covariance of 2,000
  unlabelled images (a shrinkage as Ledoit & Wolf's, doi:10.1016/S0047-259X(03)00096-4).
- ascent=0.5: move the weights of the axes by ascent * strength in the direction of the sign of the
  gradient of a classifier's loss, through the decoder, and clamp them to [0, strength]
  (`ascent.py`).
- variants: variants of each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nfaug import Checkpoint, Flow
from nfaug.data.images import TensorImages, to_tensors

from .ascent import bare_classifier, weight_signs
from .data import DataSet, unlabelled_images

__all__ = ["latent_bank", "latent_levels"]

_UNLABELLED = 2000
_STRENGTH = 1.5


@dataclass(frozen=True)
class ClassAxes:
    """Axes (r, d) of a class and the coefficients (N, r) of its images on them."""

    axes: Tensor
    coefficients: Tensor


@torch.no_grad()
def latent_bank(
    checkpoint: Checkpoint | None,
    labelled: TensorImages,
    settings: dict[str, str],
    seed: int,
    data: DataSet | None = None,
) -> Tensor:
    """Variants (N, V, C, H, W) by the candidates above; no gate."""
    assert checkpoint is not None, "the arm mixes latents"
    flow = checkpoint.flow.freeze()
    draws = torch.Generator().manual_seed(seed)
    z = _encode(flow, labelled.images)
    used = _used(flow, settings)
    shared = None
    if "global" in settings:
        assert data is not None, "global axes need unlabelled images"
        shared = _global_axes(flow, data, int(settings["global"]), used, seed)
    count = int(settings.get("variants", 20))
    strength = float(settings.get("strength", _STRENGTH))
    size = strength * float(settings.get("ascent", 0))
    attacked = bare_classifier(labelled, seed) if size else None
    mixed = z[:, None].repeat(1, count, 1)
    for label in range(len(labelled.classes)):
        rows = (labelled.targets == label).nonzero().flatten()
        images = labelled.images[rows].flatten(1).float()
        found = _class_axes(z[rows] * used, images, settings, shared)
        for variant in range(count):
            weights, difference = _mixing(found.coefficients, settings, draws)
            if attacked is not None:
                labels = torch.full((len(rows),), label)
                weights += size * weight_signs(
                    flow, attacked, z[rows], weights, difference, found.axes, labels
                )
                weights.clamp_(0, strength)
            mixed[rows, variant] += weights * difference @ found.axes
    latents = mixed.flatten(0, 1).unflatten(1, flow.config.shape)
    decoded = torch.cat([flow.decode(part) for part in latents.split(128)])
    return decoded.unflatten(0, (len(z), count))


def _mixing(
    a: Tensor, settings: Mapping[str, str], draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weights and what they multiply for one variant of each image; (N, r) each, as `a` is."""
    partner = a[_partners(a, int(settings.get("near", 0)), draws)]
    w = torch.rand(a.shape, generator=draws)
    if settings.get("mix") == "pair":
        w = w[:, :1].expand_as(a)
    if settings.get("variance"):
        mixed = (w * partner + (1 - w) * a) / (w.square() + (1 - w).square()).sqrt()
        return torch.ones_like(w), mixed - a
    return float(settings.get("strength", _STRENGTH)) * w, partner - a


def _partners(a: Tensor, near: int, draws: torch.Generator) -> Tensor:
    """The row of another image for each row of a (N, r), drawn from all or from the nearest."""
    count = len(a)
    if not near:
        return (torch.arange(count) + torch.randint(1, count, (count,), generator=draws)) % count
    distance = torch.cdist(a, a).fill_diagonal_(torch.inf)
    nearest = distance.topk(min(near, count - 1), largest=False).indices
    chosen = torch.randint(nearest.shape[1], (count, 1), generator=draws)
    return nearest.gather(1, chosen)[:, 0]


def _class_axes(
    z: Tensor, images: Tensor, settings: Mapping[str, str], shared: Tensor | None
) -> ClassAxes:
    """Axes of the latents (N, d) of a class; `shared` (R, d) are global axes times their scale."""
    centred = z - z.mean(0)
    count = len(z)
    if settings.get("axes") == "image":
        # With the images' PCA coefficients s = V S, the rows of V^T centred are the directions in
        # the latent space along which those coefficients change.
        gram = (images - images.mean(0)).double()
        vectors = torch.linalg.eigh(gram @ gram.T)[1].flip(1)[:, : count - 1].float()
        axes = torch.linalg.qr((vectors.T @ centred).T)[0].T
        return ClassAxes(axes, centred @ axes.T)
    rows = centred
    rank = count - 1
    if shared is not None:
        share = float(settings.get("shrink", 0.5))
        rows = torch.cat([rows * ((1 - share) / (count - 1)) ** 0.5, shared * share**0.5])
        rank = len(shared)
    vectors = torch.linalg.eigh((rows @ rows.T).double())[1]
    kept = vectors.flip(1)[:, :rank].float()
    axes = kept.T @ rows
    axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True).clamp(min=1e-12)
    return ClassAxes(axes, centred @ axes.T)


def _global_axes(flow: Flow, data: DataSet, rank: int, used: Tensor, seed: int) -> Tensor:
    """Principal axes of unlabelled images' latents, times their standard deviations; (rank, d)."""
    images = to_tensors(unlabelled_images(data), progress=False)[0]
    draws = torch.Generator().manual_seed(seed)
    chosen = images[torch.randperm(len(images), generator=draws)[:_UNLABELLED]]
    z = _encode(flow, chosen) * used
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator
        torch.default_generator.manual_seed(seed)
        _, values, axes = torch.svd_lowrank(z - z.mean(0), q=rank, niter=4)
    return axes.T * values[:, None] / (len(z) - 1) ** 0.5


def _used(flow: Flow, settings: Mapping[str, str]) -> Tensor:
    """1 for latents at the levels that are mixed, 0 for the others; (d,)."""
    if "levels" not in settings:
        return torch.ones(flow.config.dim)
    first = {"coarsest": flow.config.levels - 1, "coarse": 1}[settings["levels"]]
    return (latent_levels(flow) >= first).float()


def latent_levels(flow: Flow) -> Tensor:
    """The level at which the flow sets each latent aside, (d,); 0 is the finest."""
    x = torch.zeros(1, *flow.config.shape)
    kept: list[Tensor] = []
    for level in range(flow.config.levels):
        if level:
            x, rest = x.chunk(2, 1)
            kept.append(rest)
        x = flow.unsqueeze(x + 1 if level else x)[0]
    for level in range(flow.config.levels):
        x = flow.unsqueeze.inverse(torch.cat([x, kept.pop()], 1) if level else x)[0]
    return x.flatten().long()


def _encode(flow: Flow, images: Tensor) -> Tensor:
    """Latents (N, d) of uint8 images."""
    return torch.cat([flow.encode(part)[0].flatten(1) for part in images.split(128)])
