"""Fit a classwise PCA with the latents of one class in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .pca import ClasswisePCA

__all__ = ["ClassFit", "ClasswisePCA", "assemble", "fit_class"]

_QUANTILE = 0.99  # share of held-out images that each of the two limits of the gate lets pass
_EXACT = 512  # images up to which the eigenvectors are computed exactly
_OVERSAMPLE = 16  # extra columns of the randomized method
_POWER_ITERATIONS = 4  # of the randomized method
_LEAST_SHARE = 1e-6  # axes with a smaller share of the first axis's variance are noise

#: The tensors of a `ClasswisePCA` of one class, without `memory_labels`, on the CPU.
ClassFit: TypeAlias = dict[str, Tensor]


class Axes(NamedTuple):
    """Mean (d,), orthonormal axes (r, d) and variances along them (r,) of latents."""

    mean: Tensor
    axes: Tensor
    eigenvalues: Tensor


class _Scores(NamedTuple):
    """Distance and energy of latents as in `ClasswisePCA.scores`, (N,), and coefficients (N, r)."""

    distance: Tensor
    energy: Tensor
    coefficients: Tensor


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
    if latents.device.type == "mps":
        latents = latents.cpu()  # Apple GPUs have no float64
    bad = int((~torch.isfinite(latents)).any(1).sum())
    if bad > 0 or len(latents) == 0:
        raise ValueError(f"{bad} of {len(latents)} latents of class {label} are not finite")
    fitted = _fit_axes(latents, rank, generator)
    scores = _scores(latents, fitted)
    gate_distance = scores.distance.quantile(_QUANTILE)
    gate_energy = scores.energy.quantile(_QUANTILE)
    memory = scores.coefficients.half()
    memory = memory[torch.isfinite(memory).all(1)]  # some may overflow float16
    if len(latents) == 1:
        # The image has no partner, and the range of its class is not known.
        memory = memory[:0]
        gate_distance = gate_distance + torch.finfo(torch.float32).max
        gate_energy = gate_energy + torch.finfo(torch.float32).max
    else:
        distance, energy = _held_out_scores(latents, rank, len(fitted.axes), generator)
        gate_distance = gate_distance.maximum(distance.quantile(_QUANTILE))
        gate_energy = gate_energy.maximum(energy.quantile(_QUANTILE))
    tensors = {
        "mean": fitted.mean[None],
        "axes": fitted.axes.half()[None],
        "eigenvalues": fitted.eigenvalues[None],
        "ranks": torch.tensor([len(fitted.axes)]),
        "counts": torch.tensor([len(latents)]),
        "gate_distance": gate_distance[None],
        "gate_energy": gate_energy[None],
        "memory": memory,
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def assemble(fits: Sequence[ClassFit], *, memory: bool) -> ClasswisePCA:
    """The PCA of all classes, from their fits in the order of labels.

    Raises:
        ValueError: There is no class.
    """
    if not fits:
        raise ValueError("latents must hold at least one class; got none")
    ranks = [int(fit["ranks"]) for fit in fits]
    rank = max(1, *ranks)
    tensors: dict[str, Tensor] = {}
    for name in fits[0]:
        parts = [fit[name] for fit in fits]
        if name in ("axes", "eigenvalues", "memory"):  # classes have different numbers of axes
            parts = [_widened(part, rank) for part in parts]
        tensors[name] = torch.cat(parts)
    sizes = torch.tensor([len(fit["memory"]) for fit in fits])
    tensors["memory_labels"] = torch.arange(len(fits)).repeat_interleave(sizes)
    if not memory or not bool(sizes.any()):
        del tensors["memory"]
        del tensors["memory_labels"]
    return ClasswisePCA(tensors)


def _widened(tensor: Tensor, size: int) -> Tensor:
    """The tensor with zeros after the values of its second dimension, up to `size`."""
    zeros = tensor.new_zeros(len(tensor), size - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, zeros], dim=1)


def _held_out_scores(
    latents: Tensor, rank: int, axes: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Distance and energy of all latents, each on axes that are fitted to the other folds.

    `axes` is the number of axes that are fitted to all latents.
    """
    folds = 5 if len(latents) <= 400 else 2
    folds = min(folds, len(latents))
    fold = torch.arange(len(latents), device=latents.device) % folds
    distances: list[Tensor] = []
    energies: list[Tensor] = []
    for held_out in range(folds):
        fitted = _fit_axes(latents[fold != held_out], rank, generator)
        scores = _scores(latents[fold == held_out], fitted)
        # The distance is a sum over axes, of which a fit to fewer latents may have fewer.
        distances.append(scores.distance * (axes / max(1, len(fitted.axes))))
        energies.append(scores.energy)
    return torch.cat(distances), torch.cat(energies)


def _scores(latents: Tensor, fitted: Axes) -> _Scores:
    centred = latents - fitted.mean
    coefficients = centred @ fitted.axes.T
    distance = (coefficients.square() / fitted.eigenvalues).sum(1)
    energy = centred.square().sum(1) - coefficients.square().sum(1)
    return _Scores(distance, energy.clamp(min=0), coefficients)


def _fit_axes(latents: Tensor, rank: int, generator: torch.Generator | None) -> Axes:
    """The leading axes of latents, rounded to float16, in float32."""
    count, dim = latents.shape
    mean = latents.double().mean(0).float()
    centred = latents - mean
    rank = min(rank, count - 1, dim)
    if rank < 1:
        return Axes(mean, centred[:0], mean[:0])
    if count <= _EXACT:
        squares, axes = _exact(centred, rank)
    else:
        squares, axes = _randomized(centred, rank, generator)
    # The axes of constant images are rounding errors.
    rounding_error = latents.square().sum() * 1e-12
    axes = axes[(squares > _LEAST_SHARE * squares[:1]) & (squares > rounding_error)]
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    eigenvalues = squares[: len(axes)] / (count - 1)
    return Axes(mean, axes.half().float(), eigenvalues.float())


def _exact(centred: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Squared singular values and right singular vectors of (N, d) rows, largest first."""
    squares, vectors = torch.linalg.eigh(centred.double() @ centred.double().T)
    squares = squares[-rank:].flip(0)
    axes = vectors[:, -rank:].flip(1).T.float() @ centred
    lengths = torch.linalg.vector_norm(axes, dim=1, keepdim=True)
    return squares, axes / lengths.clamp(min=1e-30)


def _randomized(
    centred: Tensor, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The same as `_exact`, by a randomized range finder with power iterations."""
    columns = min(rank + _OVERSAMPLE, *centred.shape)
    device = centred.device if generator is None else generator.device
    sketch = torch.randn(len(centred), columns, generator=generator, device=device)
    basis = torch.linalg.qr(centred.T @ sketch.to(centred))[0]
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    _, values, axes = torch.linalg.svd((centred @ basis).double(), full_matrices=False)
    return values[:rank].square(), axes[:rank].float() @ basis.T
