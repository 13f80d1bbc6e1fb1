"""Fit a classwise PCA with the latents of one class in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .pca import ClasswisePCA

__all__ = ["ClassFit", "ClasswisePCA", "assemble", "fit_class"]

_QUANTILE = 0.99  # share of held-out images that each of the two limits of the gate lets pass
_EXACT = 512  # images up to which the eigenvectors are computed exactly
_OVERSAMPLE, _POWER = 16, 4  # extra columns and power iterations of the randomized method
_LEAST_SHARE = 1e-6  # axes with a smaller share of the first axis's variance are noise

#: Mean (d,), orthonormal axes (r, d) and eigenvalues (r,) of the latents of a class.
Axes: TypeAlias = tuple[Tensor, Tensor, Tensor]
#: The tensors of a `ClasswisePCA` of one class, without `memory_labels`, on the CPU.
ClassFit: TypeAlias = dict[str, Tensor]


def fit_class(
    latents: Tensor, rank: int, *, label: int = 0, generator: torch.Generator | None = None
) -> ClassFit:
    """Leading principal axes of one class's latents, and the range of the class.

    Exact for up to 512 images, else by a randomized range finder with power iterations (Halko,
    Martinsson & Tropp 2011, arXiv:0909.4061). The largest entry of each axis is positive. The range
    is the 99% quantile of cross-fitted scores: each fold of the images is scored on axes that are
    fitted to the other folds, because scores on fitted images are too low. A class of one image has
    a mean, no axes and no partner.

    Args:
        latents: Latents of the class, (N, d) or (N, C, H, W).
        rank: Largest number of axes.
        label: The class, for the error message.
        generator: Source of randomness.

    Raises:
        ValueError: There are no latents, or latents are not finite.
    """
    latents = latents.flatten(1).float()
    latents = latents.cpu() if latents.device.type == "mps" else latents  # which has no float64
    bad = int((~torch.isfinite(latents)).any(1).sum())
    if bad or not len(latents):
        raise ValueError(f"{bad} of {len(latents)} latents of class {label} are not finite")
    mean, axes, eigenvalues = fitted = _fit_axes(latents, rank, generator)
    *scores, coefficients = _scores(latents, fitted)
    limits = torch.stack([x.quantile(_QUANTILE) for x in scores])
    if len(latents) == 1:  # no range is known: noise may change its image
        coefficients, limits = coefficients[:0], limits + torch.finfo(torch.float32).max
    else:
        held_out = _held_out_scores(latents, rank, len(axes), generator)
        limits = limits.maximum(torch.stack([x.quantile(_QUANTILE) for x in held_out]))
    memory = coefficients.half()
    tensors = {
        "mean": mean[None],
        "axes": axes.half()[None],
        "eigenvalues": eigenvalues[None],
        "ranks": torch.tensor([len(axes)]),
        "counts": torch.tensor([len(latents)]),
        "gate_distance": limits[:1],
        "gate_energy": limits[1:],
        "memory": memory[torch.isfinite(memory).all(1)],  # some may overflow float16
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def assemble(fits: Sequence[ClassFit], *, memory: bool) -> ClasswisePCA:
    """The PCA of all classes, of their fits in label order.

    Raises:
        ValueError: There is no class.
    """
    if not fits:
        raise ValueError("latents must hold at least one class; got none")
    width = max(1, *(int(fit["ranks"]) for fit in fits))

    def joined(name: str) -> Tensor:
        parts = [fit[name] for fit in fits]
        if name in ("axes", "eigenvalues", "memory"):  # classes have different numbers of axes
            gaps = [x.new_zeros(len(x), width - x.shape[1], *x.shape[2:]) for x in parts]
            parts = [torch.cat(pair, dim=1) for pair in zip(parts, gaps, strict=True)]
        return torch.cat(parts)

    tensors = {name: joined(name) for name in fits[0]}
    sizes = torch.tensor([len(fit["memory"]) for fit in fits])
    tensors["memory_labels"] = torch.arange(len(fits)).repeat_interleave(sizes)
    if not memory or not bool(sizes.any()):
        del tensors["memory"], tensors["memory_labels"]
    return ClasswisePCA(tensors)


def _held_out_scores(
    latents: Tensor, rank: int, axes: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Distance and energy of all latents, each on axes that are fitted to the other folds."""
    folds = min(5 if len(latents) <= 400 else 2, len(latents))
    fold = torch.arange(len(latents), device=latents.device) % folds
    distances, energies = [], []
    for number in range(folds):
        part = _fit_axes(latents[fold != number], rank, generator)
        distance, energy, _ = _scores(latents[fold == number], part)
        # The distance is a sum over axes, and a fold may have fewer axes.
        distances.append(distance * (axes / max(1, len(part[1]))))
        energies.append(energy)
    return torch.cat(distances), torch.cat(energies)


def _scores(latents: Tensor, fitted: Axes) -> tuple[Tensor, Tensor, Tensor]:
    """Distance and energy as in `ClasswisePCA.scores`, and the coefficients."""
    mean, axes, eigenvalues = fitted
    centred = latents - mean
    coefficients = centred @ axes.T
    distance = (coefficients.square() / eigenvalues).sum(1)
    energy = centred.square().sum(1) - coefficients.square().sum(1)
    return distance, energy.clamp(min=0), coefficients


def _fit_axes(latents: Tensor, rank: int, generator: torch.Generator | None) -> Axes:
    """The leading axes of latents, with values as float16 stores them."""
    count, dim = latents.shape
    mean = latents.double().mean(0).float()
    centred = latents - mean
    rank = min(rank, count - 1, dim)
    if rank < 1:
        return mean, centred[:0], mean[:0]
    if count <= _EXACT:
        values, vectors = torch.linalg.eigh(centred.double() @ centred.double().T)
        values, axes = values[-rank:].flip(0), vectors[:, -rank:].flip(1).T.float() @ centred
        axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True).clamp(min=1e-30)
    else:
        values, axes = _randomized(centred, rank, generator)
    # The axes of constant images are rounding errors.
    scale = latents.square().sum() * 1e-12
    axes = axes[(values > _LEAST_SHARE * values[:1]) & (values > scale)]
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return mean, axes.half().float(), (values[: len(axes)] / (count - 1)).float()


def _randomized(
    centred: Tensor, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Squared singular values and right singular vectors of (N, d) rows, largest first."""
    columns = min(rank + _OVERSAMPLE, *centred.shape)
    device = centred.device if generator is None else generator.device
    sketch = torch.randn(len(centred), columns, generator=generator, device=device)
    basis = torch.linalg.qr(centred.T @ sketch.to(centred))[0]
    for _ in range(_POWER):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    _, values, axes = torch.linalg.svd((centred @ basis).double(), full_matrices=False)
    return values[:rank].square(), axes[:rank].float() @ basis.T
