"""Images that a comparison would judge by although something was trained on them."""

from __future__ import annotations

import hashlib
import warnings

import torch

from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import LabelledImages, to_tensors

from .config import CompareConfig
from .images import labelled_images

__all__ = ["warn_of_memory", "without_copies"]

_MOST_SHARED = 0.01  # of the images to judge by; public datasets hold a few copies
_ENCODED = 64  # images at once
_SAME = 1e-3  # of the largest coefficient; float16 rounds to half of this


def without_copies(
    pool: LabelledImages, judged: LabelledImages, config: CompareConfig, *, held_out: bool
) -> LabelledImages:
    """The images to judge by that have not the pixels of one that is trained on, with a warning.

    Another warning says if images of two classes have the same pixels.

    Raises:
        ValueError: More than one in a hundred are trained on, and they were not `held_out` here.
    """
    seen: dict[bytes, tuple[str, str]] = {}  # by pixels, the name and the class of an image
    doubles: dict[bytes, str] = {}
    trained = _trained(pool, config)
    for index, digest in enumerate(_digests(trained)):
        name, label = trained.name(index), trained.classes[trained.targets[index]]
        first, first_label = seen.setdefault(digest, (name, label))
        if label != first_label:
            doubles[digest] = f"{first} ({first_label}) and {name} ({label})"
    shared: dict[int, str] = {}  # by row of `judged`, the name of the same image in training
    for row, digest in enumerate(_digests(judged)):
        name, label = judged.name(row), judged.classes[judged.targets[row]]
        if digest not in seen:
            continue
        first, first_label = seen[digest]
        shared[row] = first
        if label != first_label:
            doubles[digest] = f"{first} ({first_label}) and {name} ({label})"
    if doubles:
        example = next(iter(doubles.values()))
        warnings.warn(
            f"images in two classes: {len(doubles)}, such as {example}, which have the same "
            "pixels. One of the two labels is wrong",
            stacklevel=3,
        )
    if not shared:
        return judged
    row, name = next(iter(shared.items()))
    problem = (
        f"{len(shared)} of {len(judged)} images to judge by are trained on: {judged.name(row)} has "
        f"the pixels of {name}"
    )
    too_many = len(shared) > _MOST_SHARED * len(judged)
    if len(shared) == len(judged) or (too_many and not held_out):
        raise ValueError(
            f"{problem}. Remove them, or leave out test_data (--test-data), and a part is held out"
        )
    warnings.warn(f"{problem}. They are left out", stacklevel=3)
    kept = [row for row in range(len(judged)) if row not in shared]
    return judged.subset(torch.tensor(kept))


def _digests(images: LabelledImages) -> list[bytes]:
    """A hash of the pixels of each image."""
    pixels, _ = to_tensors(images, progress=False)
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels]


def _trained(pool: LabelledImages, config: CompareConfig) -> LabelledImages:
    """The images that are trained on in any seed, each once."""
    draws = 1 if config.per_class is None else config.seeds
    rows = torch.cat([labelled_images(pool, config, seed).indices for seed in range(draws)])
    return LabelledImages(pool.reader, pool.preprocess, rows.unique(), pool.skipped)


def warn_of_memory(name: str, checkpoint: Checkpoint, judged: LabelledImages) -> None:
    """Warn if the memory of a flow's checkpoint holds images to judge by.

    The memory has the coefficients of the images that the flow was trained on, or fitted to. Those
    of an image to judge by are compared with them, up to the rounding of float16.
    """
    pca = checkpoint.pca
    if pca is None or pca.memory is None or pca.memory_labels is None:
        return
    numbers = {label: number for number, label in enumerate(checkpoint.config.classes)}
    labels = torch.tensor([numbers.get(label, -1) for label in judged.classes])[judged.targets]
    known = judged.subset((labels >= 0).nonzero().flatten())
    if not len(known):
        return
    labels = labels[labels >= 0]
    images, _ = to_tensors(known.resized(checkpoint.flow.codec.image_size), progress=False)
    with torch.inference_mode():
        parts = images.split(_ENCODED)
        latents = torch.cat([checkpoint.flow.latents(part) for part in parts])
        coefficients = pca.project(latents, labels)
    found = []
    for row, label in enumerate(labels.tolist()):
        start, stop = pca.offsets[label], pca.offsets[label + 1]
        difference = (pca.memory[start:stop].float() - coefficients[row]).abs().amax(1)
        if (difference < _SAME * coefficients[row].abs().max()).any():
            found.append(known.name(row))
    if found:
        warnings.warn(
            f"the memory of {name} holds {len(found)} of {len(judged)} images to judge by, such as "
            f"{found[0]}. If its flow was trained on them, NFA is judged too well: judge by others "
            "(test_data, --test-data)",
            stacklevel=3,
        )
