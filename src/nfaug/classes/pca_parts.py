"""Put the PCAs of single classes together, with all axes in memory once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .pca import GEMM_CLASSES, ClasswisePCA


@dataclass(frozen=True)
class ClassFit:
    """What is fitted to the d coordinates of one class's latents. All tensors are on the CPU.

    Attributes:
        mean: (d,) of the latents.
        axes: float16 (r, d), orthonormal.
        eigenvalues: (r,) variances along the axes.
        count: The number of latents.
        gate_distance: The largest distance of a latent in the range of the class.
        gate_energy: The largest energy of such a latent; see `ClasswisePCA`.
        memory: float16 (n, r), coefficients of the latents.
        noisy_mean: float64 (d,) of the latents of the same images with dequantisation noise, for
            the Gaussian of the class; None if that was not asked for.
        noisy_m2: float64 (d,), the sum of squared deviations from it.
    """

    mean: Tensor
    axes: Tensor
    eigenvalues: Tensor
    count: Tensor
    gate_distance: Tensor
    gate_energy: Tensor
    memory: Tensor
    noisy_mean: Tensor | None = None
    noisy_m2: Tensor | None = None


class PCAParts:
    """The tensors of a `ClasswisePCA`, to which the classes are added in the order of labels.

    Args:
        classes: Number of classes, K.
        rank: The most axes that a class may have.
        dim: Number of latent coordinates, d.
        images: The most rows that the memory may have; 0 for no memory.
    """

    def __init__(self, classes: int, rank: int, dim: int, images: int) -> None:
        rank = max(1, rank)
        self.tensors: dict[str, Tensor] = {
            "mean": _zeros(np.float32, classes, dim),
            # As `ClasswisePCA` holds them.
            "axes": _zeros(
                np.float32 if classes <= GEMM_CLASSES else np.float16, classes, rank, dim
            ),
            "eigenvalues": _zeros(np.float32, classes, rank),
            "ranks": _zeros(np.int64, classes),
            "counts": _zeros(np.int64, classes),
            "gate_distance": _zeros(np.float32, classes),
            "gate_energy": _zeros(np.float32, classes),
        }
        self.memory: Tensor = _zeros(np.float16, images, rank)
        self.memory_sizes: list[int] = []
        self.added: int = 0

    def add(self, fit: ClassFit) -> None:
        """Add the next class, which may have fewer axes."""
        rank = len(fit.axes)
        label = self.added
        self.tensors["mean"][label] = fit.mean
        self.tensors["axes"][label, :rank] = fit.axes
        self.tensors["eigenvalues"][label, :rank] = fit.eigenvalues
        self.tensors["ranks"][label] = rank
        self.tensors["counts"][label] = fit.count
        self.tensors["gate_distance"][label] = fit.gate_distance
        self.tensors["gate_energy"][label] = fit.gate_energy
        self.added += 1
        if len(self.memory):
            start = sum(self.memory_sizes)
            end = start + len(fit.memory)
            self.memory[start:end, :rank] = fit.memory
            self.memory_sizes.append(len(fit.memory))

    def joined(self) -> ClasswisePCA:
        """The PCA of all classes, which shares memory with the parts."""
        assert self.added == len(self.tensors["counts"])
        tensors = dict(self.tensors)
        count = sum(self.memory_sizes)
        if count:
            sizes = torch.tensor(self.memory_sizes)
            tensors["memory"] = self.memory[:count]
            tensors["memory_labels"] = torch.arange(self.added).repeat_interleave(sizes)
        rank = max(1, int(tensors["ranks"].max()))
        for name in ("axes", "eigenvalues", "memory"):
            if name in tensors and tensors[name].shape[1] > rank:
                tensors[name] = tensors[name][:, :rank].clone()
        return ClasswisePCA(tensors)


def _zeros(dtype: type[np.generic], *shape: int) -> Tensor:
    """Zeros whose memory is taken as they are written; torch's own are written at once."""
    return torch.from_numpy(np.zeros(shape, dtype))
