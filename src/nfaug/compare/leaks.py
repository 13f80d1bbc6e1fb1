"""Flows that have seen the images to judge by."""

from __future__ import annotations

import warnings

import torch

from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import LabelledImages, to_tensors

__all__ = ["check_flow"]

_ENCODED = 64  # images at once
_SAME = 1e-3  # of the largest coefficient; float16 rounds to half of this


def check_flow(name: str, checkpoint: Checkpoint, judged: LabelledImages) -> None:
    """Check that a flow was not trained on the images to judge by, as far as its files tell.

    The memory has the coefficients of the images that the flow was trained on, or fitted to. Those
    of an image to judge by are compared with them, up to the rounding of float16, which ends in a
    warning.

    Raises:
        ValueError: The flow was trained on these images.
    """
    if checkpoint.config.training.get("images_sha256", "") == judged.fingerprint():
        raise ValueError(
            f"{name} was trained on the images to judge by, and NFA would be judged too well: "
            "pass others as test_data (--test-data)"
        )
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
