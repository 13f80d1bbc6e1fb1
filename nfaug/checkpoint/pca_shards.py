"""Split a classwise PCA into files of several classes each, and join them again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..io.manifest import (
    CONFIG,
    MOST_SHARDS,
    PCA,
    CheckpointError,
    pca_files,
    pca_names,
    reading,
)
from ..io.tensors import Stored, read_layout, read_tensors
from ..pca.classwise import ClasswisePCA
from .config import CheckpointConfig

__all__ = ["read_pca", "split_pca"]

_OF_IMAGES = ("memory", "memory_labels")  # a row per image; all others have a row per class


def split_pca(pca: ClasswisePCA, most: int) -> dict[str, dict[str, Tensor]]:
    """Return {file name: tensors}, with consecutive classes in each file.

    A file has at most `most` bytes of tensors, or one class if that is larger. Labels are not
    renumbered.

    Raises:
        ValueError: `most` is below 1, or there would be more than 1,000 files.
    """
    if most < 1:
        raise ValueError(f"shard_bytes must be at least 1; got {most}")
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
    if len(cuts) > MOST_SHARDS:
        raise ValueError(
            f"shard_bytes={most} gives {len(cuts)} files of PCA axes; at most {MOST_SHARDS} can be "
            "read"
        )
    runs = itertools.pairwise([*cuts, pca.num_classes])
    return {
        name: {
            key: value[starts[first] : starts[last]] if key in _OF_IMAGES else value[first:last]
            for key, value in tensors.items()
        }
        for name, (first, last) in zip(pca_names(len(cuts)), runs, strict=True)
    }


def read_pca(directory: Path, files: Mapping[str, str], config: CheckpointConfig) -> ClasswisePCA:
    """Read the PCA from the listed files.

    Args:
        directory: The checkpoint directory.
        files: Name and SHA-256 of each tensor file.
        config: The checkpoint's configuration.

    Raises:
        CheckpointError: A file is damaged or does not match the other files or the configuration.
    """
    names = pca_files(files)
    layouts = {name: read_layout(directory / name) for name in names}
    _check_classes(directory, layouts, config)
    with reading(directory / names[0]):
        if len(names) == 1:
            return ClasswisePCA.from_tensors(read_tensors(directory / PCA, files[PCA]))
        return ClasswisePCA.from_tensors(_joined(directory, files, layouts))


def _check_classes(
    directory: Path, layouts: Mapping[str, Mapping[str, Stored]], config: CheckpointConfig
) -> None:
    """Compare the shapes of the means, which every file has, with the configuration."""
    means = [layout["mean"].shape for layout in layouts.values() if "mean" in layout]
    classes = sum(shape[0] for shape in means if len(shape) == 2)
    dims = {shape[1] for shape in means if len(shape) == 2}
    if (
        len(means) != len(layouts)
        or classes != len(config.class_names)
        or dims != {config.flow.dim}
    ):
        raise CheckpointError(
            f"{directory / min(layouts)} is damaged or from another checkpoint: its means have "
            f"shape {', '.join(map(str, means[:5])) or 'nothing'}; {CONFIG} says "
            f"{len(config.class_names)} classes in {config.flow.dim} dimensions"
        )


def _joined(
    directory: Path, files: Mapping[str, str], layouts: Mapping[str, Mapping[str, Stored]]
) -> dict[str, Tensor]:
    """Return the tensors of all shards, concatenated without a second copy."""
    first = layouts[min(layouts)]
    for name, layout in layouts.items():
        _check_shard(directory / name, layout, first)
    whole = {
        key: torch.empty(
            sum(layout[key].shape[0] for layout in layouts.values()), *shape[1:], dtype=dtype
        )
        for key, (dtype, shape) in first.items()
    }
    filled = dict.fromkeys(whole, 0)
    for name in layouts:
        part = read_tensors(directory / name, files[name])
        labels, start = part.get("memory_labels"), filled["mean"]
        last = start + len(part["mean"]) - 1
        if labels is not None and len(labels):
            least, most = int(labels.min()), int(labels.max())
            if least < start or most > last:
                raise CheckpointError(
                    f"{directory / name} is the shard of classes {start} to {last}, but its memory "
                    f"has classes {least} to {most}: shards are swapped or of two checkpoints"
                )
        for key, value in part.items():
            whole[key][filled[key] : filled[key] + len(value)] = value
            filled[key] += len(value)
    return whole


def _check_shard(file: Path, layout: Mapping[str, Stored], first: Mapping[str, Stored]) -> None:
    """Check that a shard has the tensors of the first one, with equal numbers of rows."""

    def kinds(of: Mapping[str, Stored]) -> dict[str, object]:
        return {key: (stored.dtype, stored.shape[1:]) for key, stored in of.items()}

    flat = [key for key, stored in layout.items() if not stored.shape]
    rows = {
        group: {layout[key].shape[:1] for key in layout if (key in _OF_IMAGES) == group}
        for group in (False, True)
    }
    if flat or kinds(layout) != kinds(first) or any(len(found) > 1 for found in rows.values()):
        found = {key: stored.shape for key, stored in sorted(layout.items())[:12]}
        raise CheckpointError(
            f"{file} is damaged or does not match the other shards: it holds {found}"
        )
