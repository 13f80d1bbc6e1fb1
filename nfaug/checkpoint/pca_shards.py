"""Split a classwise PCA into files of several classes each, and join them again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..io.manifest import PCA
from ..io.tensors import read_tensors

__all__ = ["pca_files", "pca_names", "read_pca", "split_pca"]

_OF_IMAGES = ("memory", "memory_labels")  # a row per image; all others have a row per class


def pca_names(count: int) -> list[str]:
    """Return the names of `count` files of PCA axes: one plain name or numbered shards."""
    if count == 1:
        return [PCA]
    return [f"pca-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def pca_files(names: Iterable[str]) -> list[str]:
    """Return those of the names of tensor files that hold PCA axes, in order."""
    return sorted(name for name in names if name.startswith("pca"))


def split_pca(pca: ClasswisePCA, most: int) -> dict[str, dict[str, Tensor]]:
    """Return {file name: tensors}, with consecutive classes in each file.

    A file has at most `most` bytes of tensors, or one class if that is larger. Labels are not
    renumbered.
    """
    tensors = pca.tensors()
    starts = pca.offsets.tolist()
    row = {name: value[:1].numel() * value.element_size() for name, value in tensors.items()}
    of_image = sum(row[name] for name in _OF_IMAGES if name in row)
    of_class = sum(row.values()) - of_image
    cuts, filled = [0], 0
    for label, images in enumerate(stop - start for start, stop in itertools.pairwise(starts)):
        size = of_class + of_image * images
        if filled and filled + size > most:
            cuts.append(label)
            filled = 0
        filled += size
    runs = itertools.pairwise([*cuts, pca.num_classes])
    return {
        name: {
            key: value[starts[first] : starts[last]] if key in _OF_IMAGES else value[first:last]
            for key, value in tensors.items()
        }
        for name, (first, last) in zip(pca_names(len(cuts)), runs, strict=True)
    }


def read_pca(directory: Path, files: Mapping[str, str]) -> ClasswisePCA:
    """Read the PCA from the listed files: `files` maps tensor files to their SHA-256.

    Raises:
        CheckpointError: A file cannot be read.
        ValueError: A file does not match the others, or they are not a whole set.
    """
    names = pca_files(files)
    if names != pca_names(len(names)):
        raise ValueError(
            f"there are {len(names)} files of PCA axes, from {names[0]} to {names[-1]}; it must be "
            f"{PCA} alone or all shards 00001 to M of one number M"
        )
    shards = [read_tensors(directory / name, files[name]) for name in names]
    first = shards[0]
    for name, shard in zip(names, shards, strict=True):
        if shard.keys() != first.keys():
            raise ValueError(f"{name} does not match the other shards: it holds {sorted(shard)}")
    if len(shards) > 1:
        first = {key: torch.cat([shard.pop(key) for shard in shards]) for key in list(first)}
    return ClasswisePCA.from_tensors(first)
