"""Put the PCAs of single classes together, with all axes in memory once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .pca import ClasswisePCA

__all__ = ["PCAParts"]


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
            "axes": _zeros(np.float16, classes, rank, dim),
            "eigenvalues": _zeros(np.float32, classes, rank),
            "ranks": _zeros(np.int64, classes),
            "counts": _zeros(np.int64, classes),
            "gate_distance": _zeros(np.float32, classes),
            "gate_energy": _zeros(np.float32, classes),
        }
        self.memory: Tensor = _zeros(np.float16, images, rank)
        self.memory_sizes: list[int] = []
        self.added: int = 0

    def add(self, fit: Mapping[str, Tensor]) -> None:
        """Add the next class, given by the tensors of its PCA, which may have fewer axes."""
        for name, tensor in self.tensors.items():
            value = fit[name][0]
            if value.ndim:
                tensor[self.added, : len(value)] = value
            else:
                tensor[self.added] = value
        self.added += 1
        if len(self.memory):
            rows = fit["memory"]
            start = sum(self.memory_sizes)
            self.memory[start : start + len(rows), : rows.shape[1]] = rows
            self.memory_sizes.append(len(rows))

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
