"""fit_pca: fit a classwise PCA with the latents of one class in memory at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .pca import ClasswisePCA

__all__ = [
    "ClassFit",
    "ClasswisePCA",
    "StoredFit",
    "assemble",
    "fit_class",
    "fit_pca",
    "fit_stored",
]

_EXACT = 512  # images (or dimensions) up to which the eigenvectors are computed exactly
_OVERSAMPLE, _POWER = 16, 4  # extra columns and power iterations of the randomized method
_LEAST_SHARE = 1e-6  # axes with a smaller share of the first axis's variance are noise


class ClassFit(NamedTuple):
    """PCA of one class, with the coefficients of its images and the limits of its range.

    mean (d,), axes (r, d), eigenvalues (r,), coefficients (N, r).
    """

    mean: Tensor
    axes: Tensor
    eigenvalues: Tensor
    coefficients: Tensor
    gate_distance: float
    gate_energy: float


class StoredFit(NamedTuple):
    """A class's fit as a checkpoint stores it, on the CPU, and its number of images."""

    fit: ClassFit
    images: int


def fit_pca(
    latents: Iterable[Tensor],
    *,
    rank: int = 64,
    max_per_class: int | None = 5000,
    memory: bool = True,
    quantile: float = 0.99,
    allow_single: bool = False,
    generator: torch.Generator | None = None,
) -> ClasswisePCA:
    """Fit mean, axes, gate and partner memory of every class.

    Args:
        latents: Latents of each class in label order, (N_y, d) or (N_y, C, H, W). With a Python
            generator only one class is in memory at a time.
        rank: Number of axes r. A class of N images gets at most N - 1, with a warning.
        max_per_class: Largest number of images of a class, drawn at random; None for all.
        memory: Whether to keep the images' coefficients as partners.
        quantile: Share of held-out images that each of the two limits of the gate lets pass.
        allow_single: Whether a class of one image gets its mean, no axes and no partner; if not, it
            is an error.
        generator: Source of randomness.

    Raises:
        ValueError: A class has fewer than two images or non-finite latents, dimensions differ, or
            a setting is out of range. Classes are named by their label.
    """
    for name, value, least in (("max_per_class", max_per_class, 2), ("rank", rank, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be >= {least}; got {value}")
    stored: list[StoredFit] = []
    for label, rows in enumerate(latents):
        rows = rows.flatten(1)
        if stored and rows.shape[1] != len(stored[0].fit.mean):
            raise ValueError(
                f"latents of all classes must have one dimension; got {rows.shape[1]} for class "
                f"{label} and {len(stored[0].fit.mean)} for class 0"
            )
        if max_per_class is not None and len(rows) > max_per_class:
            rows = rows[_choose(len(rows), max_per_class, generator).to(rows.device)]
        stored.append(
            fit_stored(
                rows,
                label,
                rank=rank,
                memory=memory,
                quantile=quantile,
                allow_single=allow_single,
                generator=generator,
            )
        )
    return assemble(stored, rank=rank, memory=memory)


def fit_stored(
    rows: Tensor,
    label: int,
    *,
    rank: int,
    memory: bool = True,
    quantile: float = 0.99,
    allow_single: bool = False,
    generator: torch.Generator | None = None,
) -> StoredFit:
    """Fit one class, with the arguments of `fit_pca`, to be assembled with the others."""
    try:
        if allow_single and len(rows) == 1:
            fit = _no_axes(rows[0].float())
        else:
            fit = fit_class(rows, rank, quantile=quantile, generator=generator)
    except ValueError as error:
        raise ValueError(f"class {label}: {error}") from None
    kept = fit.coefficients
    kept = kept.half() if memory else kept[:0].half()
    kept = kept[torch.isfinite(kept).all(1)]  # coefficients may overflow float16
    fit = fit._replace(
        mean=fit.mean.cpu(),
        axes=fit.axes.half().cpu(),
        eigenvalues=fit.eigenvalues.cpu(),
        coefficients=kept.cpu(),
    )
    return StoredFit(fit, len(rows))


def assemble(stored: list[StoredFit], *, rank: int, memory: bool) -> ClasswisePCA:
    """The PCA of all classes, of their fits in label order.

    Raises:
        ValueError: There is no class.
    """
    if not stored:
        raise ValueError("latents must hold at least one class; got none")
    counts = [one.images for one in stored]
    _warn_about_few(counts, rank)
    return _assemble([fit for fit, _ in stored], counts, memory=memory)


def _no_axes(mean: Tensor) -> ClassFit:
    """The fit of a class of one image: no axes and no partner."""
    axes, values, rows = mean.new_zeros(0, len(mean)), mean.new_zeros(0), mean.new_zeros(0, 0)
    return ClassFit(mean, axes, values, rows, gate_distance=0.0, gate_energy=0.0)


def _assemble(fits: list[ClassFit], counts: list[int], *, memory: bool) -> ClasswisePCA:
    classes, dim = len(fits), len(fits[0].mean)
    ranks = torch.tensor([len(fit.axes) for fit in fits])
    rank = max(1, int(ranks.max()))
    axes = torch.zeros(classes, rank, dim, dtype=torch.float16)
    eigenvalues = torch.zeros(classes, rank, dtype=torch.float32)
    sizes = torch.tensor([len(fit.coefficients) for fit in fits])
    rows = torch.zeros(int(sizes.sum()), rank, dtype=torch.float16)
    start = 0
    for label, fit in enumerate(fits):
        used, size = len(fit.axes), len(fit.coefficients)
        axes[label, :used] = fit.axes
        eigenvalues[label, :used] = fit.eigenvalues
        rows[start : start + size, :used] = fit.coefficients
        start += size
    return ClasswisePCA(
        mean=torch.stack([fit.mean for fit in fits]),
        axes=axes,
        eigenvalues=eigenvalues,
        ranks=ranks,
        counts=torch.tensor(counts),
        gate_distance=torch.tensor([fit.gate_distance for fit in fits], dtype=torch.float32),
        gate_energy=torch.tensor([fit.gate_energy for fit in fits], dtype=torch.float32),
        memory=rows if memory and len(rows) else None,
        memory_labels=(
            torch.repeat_interleave(torch.arange(classes), sizes) if memory and len(rows) else None
        ),
    )


def _warn_about_few(counts: list[int], rank: int) -> None:
    few = [label for label, count in enumerate(counts) if 1 < count <= rank]
    if few:
        warnings.warn(
            f"{len(few)} of {len(counts)} classes have too few images for {rank} axes and get one "
            f"axis less than images (class {few[0]}: {counts[few[0]]} images)",
            stacklevel=3,
        )


def fit_class(
    latents: Tensor,
    rank: int,
    *,
    quantile: float = 0.99,
    generator: torch.Generator | None = None,
) -> ClassFit:
    """Leading principal axes of one class's latents (N, d), and the range of the class.

    Exact for up to 512 images or dimensions, else by a randomized range finder with power
    iterations (Halko, Martinsson & Tropp 2011, arXiv:0909.4061). The largest entry of each axis is
    positive. The range is a quantile of cross-fitted scores: each fold of the images is scored on
    axes that are fitted to the other folds, because scores on fitted images are too low.

    Raises:
        ValueError: There are fewer than two latents, latents are not finite, or the quantile is not
            in (0, 1].
    """
    if len(latents) < 2:
        raise ValueError(
            f"a class needs at least two images; got {len(latents)}. Add images or leave it out"
        )
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1]; got {quantile}")
    latents = latents.flatten(1).float()
    if not bool(torch.isfinite(latents).all()):
        bad = int((~torch.isfinite(latents)).any(1).sum())
        raise ValueError(f"{bad} of {len(latents)} latents are not finite")
    mean, axes, eigenvalues = _components(latents, rank, generator)
    distance, energy, coefficients = _scores(latents, mean, axes, eigenvalues)
    gates = [(float(distance.quantile(quantile)), float(energy.quantile(quantile)))]
    folds = min(5 if len(latents) <= 400 else 2, len(latents))
    fold = torch.arange(len(latents), device=latents.device) % folds
    held: list[tuple[Tensor, Tensor]] = []
    for number in range(folds):
        part = _components(latents[fold != number], rank, generator)
        distance, energy, _ = _scores(latents[fold == number], *part)
        # The distance is a sum over axes, and a fold may have fewer axes.
        held.append((distance * (len(axes) / max(1, len(part[1]))), energy))
    distances, energies = (torch.cat(scores) for scores in zip(*held, strict=True))
    gates.append((float(distances.quantile(quantile)), float(energies.quantile(quantile))))
    return ClassFit(
        mean, axes, eigenvalues, coefficients, max(g[0] for g in gates), max(g[1] for g in gates)
    )


def _choose(total: int, number: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.randperm(total, generator=generator, device=device)[:number].sort().values


def _scores(
    latents: Tensor, mean: Tensor, axes: Tensor, eigenvalues: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    centred = latents - mean
    coefficients = centred @ axes.T
    distance = (coefficients.square() / eigenvalues).sum(1)
    energy = centred.square().sum(1) - coefficients.square().sum(1)
    return distance, energy.clamp(min=0), coefficients


def _components(
    latents: Tensor, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, axes (rounded to float16, as they are stored) and eigenvalues."""
    count, dim = latents.shape
    mean = latents.double().mean(0).float()
    centred = latents - mean
    rank = min(rank, count - 1, dim)
    if rank < 1:
        return mean, centred[:0], mean[:0]
    if count <= _EXACT:
        gram = centred.double() @ centred.double().T
        values, vectors = _largest(gram, rank)
        axes = vectors.T.float() @ centred
        axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True).clamp(min=1e-30)
    elif dim <= _EXACT:
        values, vectors = _largest(centred.double().T @ centred.double(), rank)
        axes = vectors.T.float()
    else:
        values, axes = _randomized(centred, rank, generator)
    # The axes of constant images are rounding errors.
    scale = latents.square().sum() * 1e-12
    axes = axes[(values > _LEAST_SHARE * values[:1]) & (values > scale)]
    values = values[: len(axes)]
    largest = axes.abs().argmax(1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return mean, axes.half().float(), (values / (count - 1)).float()


def _largest(symmetric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(symmetric)
    return values[-rank:].flip(0), vectors[:, -rank:].flip(1)


def _randomized(
    centred: Tensor, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    columns = min(rank + _OVERSAMPLE, *centred.shape)
    device = centred.device if generator is None else generator.device
    sketch = torch.randn(len(centred), columns, generator=generator, device=device)
    basis = torch.linalg.qr(centred.T @ sketch.to(centred.device))[0]
    for _ in range(_POWER):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    _, values, axes = torch.linalg.svd((centred @ basis).double(), full_matrices=False)
    return values[:rank].square(), (axes[:rank].float() @ basis.T)
