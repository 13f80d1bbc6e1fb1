"""Fit a classwise PCA with the latents of one class in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..run.blocks import blocks
from .pca_parts import ClassFit

_QUANTILE = 0.99  # share of held-out images that each of the two limits of the gate lets pass
_EXACT = 512  # images up to which the eigenvectors are computed exactly
_OVERSAMPLE = 16  # extra columns of the randomized method
_POWER_ITERATIONS = 4  # of the randomized method
_LEAST_SHARE = 1e-6  # axes with a smaller share of the first axis's variance are noise
_ROUNDING = 1e-12  # share of the sum of squares of the latents that is a rounding error
_BLOCK = 64  # rows of a Gram matrix that are computed at a time, with those before them


class Axes(NamedTuple):
    """Mean (d,), orthonormal float16 axes (r, d) and variances along them (r,) of latents."""

    mean: Tensor
    axes: Tensor
    eigenvalues: Tensor


class _Centred(NamedTuple):
    """Latents and their mean, whose difference is computed in parts: new memory costs more.

    Attributes:
        latents: (N, d).
        mean: (d,) mean.
        squares: (N,) squared lengths of the latents in float64; not finite if they are not.
        gram: (N, N) inner products of latents minus mean in float64; None for more than 512.
    """

    latents: Tensor
    mean: Tensor
    squares: Tensor
    gram: Tensor | None

    @property
    def rounding(self) -> Tensor:
        """(N,) squares below the sum of these are rounding errors."""
        return _ROUNDING * self.squares


def fit_class(
    latents: Tensor, rank: int, *, label: int = 0, generator: torch.Generator | None = None
) -> ClassFit:
    """Leading principal axes of one class's latents, and the range of the class.

    Exact for up to 512 images, else by a randomized range finder with power iterations (Halko,
    Martinsson & Tropp 2011, arXiv:0909.4061). The largest entry of each axis is positive. The range
    is the 99% quantile of cross-fitted scores: each fold of the images is scored on axes that are
    fitted to the other folds, because scores on fitted images are too low. Of up to 512 images, one
    Gram matrix gives the axes and the scores of all folds. A class of one image has a mean, no axes
    and no partner.

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
    if len(latents) == 0:
        raise ValueError(f"class {label} has no latents")
    centred = _centre(latents)
    bad = int((~torch.isfinite(centred.squares)).sum())
    if bad > 0:
        raise ValueError(f"{bad} of {len(latents)} latents of class {label} are not finite")
    fitted = _fit_axes(centred, rank, generator)
    coefficients, energies = _along(fitted, latents)
    distance, energy = _scores(coefficients, fitted.eigenvalues, energies)
    gate_distance = distance.quantile(_QUANTILE)
    gate_energy = energy.quantile(_QUANTILE)
    memory = coefficients.half()
    memory = memory[torch.isfinite(memory).all(1)]  # some may overflow float16
    if len(latents) == 1:
        # The image has no partner, and the range of its class is not known.
        memory = memory[:0]
        gate_distance = gate_distance + torch.finfo(torch.float32).max
        gate_energy = gate_energy + torch.finfo(torch.float32).max
    else:
        if centred.gram is None:
            distance, energy = _held_out_scores(latents, rank, len(fitted.axes), generator)
        else:
            distance, energy = _held_out_scores_of_gram(
                centred.gram, centred.rounding, rank, len(fitted.axes)
            )
        gate_distance = gate_distance.maximum(distance.quantile(_QUANTILE))
        gate_energy = gate_energy.maximum(energy.quantile(_QUANTILE))
    return ClassFit(
        mean=fitted.mean.cpu(),
        axes=fitted.axes.cpu(),
        eigenvalues=fitted.eigenvalues.cpu(),
        count=torch.tensor(len(latents)),
        gate_distance=gate_distance.cpu(),
        gate_energy=gate_energy.cpu(),
        memory=memory.cpu(),
    )


def _centre(latents: Tensor) -> _Centred:
    """Latents (N, d) around their mean, and for up to 512 of them their Gram matrix."""
    count, dim = latents.shape
    mean = latents.new_empty(dim)
    squares = latents.new_zeros(count, dtype=torch.float64)
    gram = None
    if count <= _EXACT:
        gram = latents.new_zeros(count, count, dtype=torch.float64)
    for columns in _parts(latents):
        part = latents[:, columns]
        doubles = part.double()
        squares += torch.linalg.vector_norm(doubles, dim=1).square()
        mean[columns] = doubles.mean(0)
        if gram is not None:
            _add_products(gram, (part - mean[columns]).double())
    if gram is not None:
        gram = gram.tril() + gram.tril(-1).T
    return _Centred(latents, mean, squares, gram)


def _add_products(gram: Tensor, rows: Tensor) -> None:
    """Add the inner products of rows (N, c) to a matrix (N, N), on and below its diagonal."""
    for first in range(0, len(rows), _BLOCK):
        end = first + _BLOCK
        gram[first:end, :end].addmm_(rows[first:end], rows[:end].T)


def _parts(latents: Tensor) -> Iterator[slice]:
    """Columns of latents (N, d) in parts that stay in the CPU's cache in float64."""
    return blocks(latents.shape[1], 8 * len(latents))


def _centred_parts(latents: Tensor, mean: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Columns, and latents (N, d) minus their mean (d,) there."""
    for columns in _parts(latents):
        yield columns, latents[:, columns] - mean[columns]


def _along(fitted: Axes, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (N, r) of latents minus the mean along the axes, and squared lengths (N,)."""
    coefficients = latents.new_zeros(len(latents), len(fitted.axes))
    lengths = latents.new_zeros(len(latents))
    for columns, values in _centred_parts(latents, fitted.mean):
        coefficients.addmm_(values, fitted.axes[:, columns].float().T)
        lengths += _squared_lengths(values)
    return coefficients, lengths


def _squared_lengths(rows: Tensor) -> Tensor:
    """Sum of squares of each row, without a tensor of all squares."""
    return torch.linalg.vector_norm(rows, dim=1).square()


def _scores(coefficients: Tensor, eigenvalues: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
    """The `distance` and the energy of a `ClasswisePCA` from |z - m|^2, the `energies` (N,)."""
    squares = coefficients.square()
    distance = (squares / eigenvalues).sum(1)
    return distance, (energies - squares.sum(1)).clamp(min=0)


def _folds(latents: Tensor) -> list[Tensor]:
    """The folds of latents, each as a mask (N,)."""
    count = len(latents)
    folds = 5 if count <= 400 else 2
    position = torch.arange(count, device=latents.device)
    return [position % folds == fold for fold in range(min(folds, count))]


def _held_out_scores(
    latents: Tensor, rank: int, axes: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Distance and energy of all latents, each on axes that are fitted to the other folds.

    `axes` is the number of axes that are fitted to all latents. The distance is a sum over axes, of
    which a fit to fewer latents may have fewer.
    """
    distances: list[Tensor] = []
    energies: list[Tensor] = []
    for held_out in _folds(latents):
        fitted = _fit_axes(_centre(latents[~held_out]), rank, generator)
        coefficients, lengths = _along(fitted, latents[held_out])
        distance, energy = _scores(coefficients, fitted.eigenvalues, lengths)
        distances.append(distance * (axes / max(1, len(fitted.axes))))
        energies.append(energy)
    return torch.cat(distances), torch.cat(energies)


def _held_out_scores_of_gram(
    gram: Tensor, rounding: Tensor, rank: int, axes: int
) -> tuple[Tensor, Tensor]:
    """The same from `_Centred.gram` and `rounding` alone, with axes that are not rounded.

    The inner products of latents i and j around the mean of the others k, on which the axes are
    fitted, are P_ij = G_ij - mean_k G_ik - mean_k G_jk + mean_kl G_kl. An eigenvector v of those of
    the others with eigenvalue s gives the coefficients sum_k P_ik v_k / sqrt(s).
    """
    distances: list[Tensor] = []
    energies: list[Tensor] = []
    for held_out in _folds(gram):
        others = ~held_out
        with_mean = gram[:, others].mean(1)
        products = gram - with_mean - with_mean[:, None] + with_mean[others].mean()
        fitted = products[others][:, others]
        squares, vectors = _leading(fitted, rank, rounding[others].sum())
        coefficients = products[held_out][:, others] @ vectors / squares.sqrt()
        eigenvalues = squares / max(1, len(fitted) - 1)
        distance, energy = _scores(coefficients, eigenvalues, products.diagonal()[held_out])
        distances.append(distance * (axes / max(1, len(squares))))
        energies.append(energy)
    return torch.cat(distances).float(), torch.cat(energies).float()


def _fit_axes(centred: _Centred, rank: int, generator: torch.Generator | None) -> Axes:
    """The leading axes of latents, rounded to float16."""
    rounding_error = centred.rounding.sum()
    if centred.gram is None:
        values = centred.latents - centred.mean
        squares, directions = _randomized(values, rank, rounding_error, generator)
        axes = _signed(directions.half(), directions.amin(1), directions.amax(1))
    else:
        squares, vectors = _leading(centred.gram, rank, rounding_error)
        axes = _axes_of(vectors / squares.sqrt(), centred)
    eigenvalues = squares / max(1, len(centred.latents) - 1)
    return Axes(centred.mean, axes, eigenvalues.float())


def _axes_of(vectors: Tensor, centred: _Centred) -> Tensor:
    """The axes (r, d) of eigenvectors (N, r) of the Gram matrix, divided by singular values."""
    axes = centred.latents.new_empty(vectors.shape[1], len(centred.mean), dtype=torch.float16)
    weights = vectors.T.float()
    lowest = weights.new_zeros(len(weights))
    highest = torch.zeros_like(lowest)
    for columns, values in _centred_parts(centred.latents, centred.mean):
        part = weights @ values
        lowest = torch.minimum(lowest, part.amin(1))
        highest = torch.maximum(highest, part.amax(1))
        axes[:, columns] = part
    return _signed(axes, lowest, highest)


def _signed(axes: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Axes (r, d), turned in place so that the largest entry of each is positive."""
    sign = torch.where(-lowest > highest, -1.0, 1.0)
    return axes.mul_(sign[:, None].half())


def _leading(gram: Tensor, rank: int, rounding_error: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (r,) and eigenvectors (N, r) of a Gram matrix, without the noise."""
    squares, vectors = torch.linalg.eigh(gram)
    squares = squares.flip(0)[:rank]
    kept = _are_axes(squares, rounding_error)
    return squares[kept], vectors.flip(1)[:, :rank][:, kept]


def _are_axes(squares: Tensor, rounding_error: Tensor) -> Tensor:
    """Whether squared singular values (r,) are those of axes, not of noise or rounding errors.

    All singular values of constant images are rounding errors.
    """
    return (squares > _LEAST_SHARE * squares[:1]) & (squares > rounding_error)


def _randomized(
    centred: Tensor, rank: int, rounding_error: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Squared singular values (r,) and right singular vectors (r, d), largest first.

    By a randomized range finder with power iterations.
    """
    columns = min(rank + _OVERSAMPLE, *centred.shape)
    device = centred.device if generator is None else generator.device
    sketch = torch.randn(len(centred), columns, generator=generator, device=device)
    basis = torch.linalg.qr(centred.T @ sketch.to(centred))[0]
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    _, values, axes = torch.linalg.svd((centred @ basis).double(), full_matrices=False)
    squares = values[:rank].square()
    kept = _are_axes(squares, rounding_error)
    return squares[kept], axes[:rank][kept].float() @ basis.T
