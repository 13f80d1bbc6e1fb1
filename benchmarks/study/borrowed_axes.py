"""A variant of NFA's fit: each class shares axes and partners with the other classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nfaug import Checkpoint, ClasswisePCA

__all__ = ["with_borrowed_axes"]


@torch.no_grad()
def with_borrowed_axes(
    fitted: Checkpoint,
    images: Tensor,
    labels: Tensor,
    *,
    shrink: float,
    rank: int,
    partners: str,
) -> Checkpoint:
    """The checkpoint with axes of (1 - shrink) C_y + shrink C, C pooled over classes.

    With `partners="own"` the memory of a class holds its own images; with "all" it holds the images
    of every class, as deviations from the mean of their own class: b = U_y^T (z_j - m_y(j)). The
    gate is off, since borrowed axes leave the span of the class's own images.
    """
    flow = fitted.flow.freeze()
    latents = torch.cat([flow.encode(part)[0].flatten(1) for part in images.split(128)])
    classes = int(labels.max()) + 1
    means = torch.stack([latents[labels == y].mean(0) for y in range(classes)])
    centred = latents - means[labels]
    axes, values, memory, owners = [], [], [], []
    for y in range(classes):
        own = centred[labels == y]
        rows = torch.cat(
            [
                own * ((1 - shrink) / (len(own) - 1)) ** 0.5,
                centred * (shrink / (len(centred) - classes)) ** 0.5,
            ]
        )
        _, singular, directions = torch.linalg.svd(rows.double(), full_matrices=False)
        axes.append(directions[:rank].half())
        values.append(singular[:rank].square().float())
        kept = own if partners == "own" else centred
        memory.append((kept @ directions[:rank].float().T).half())
        owners.append(torch.full((len(kept),), y))
    counts = torch.bincount(labels, minlength=classes)
    anywhere = torch.full((classes,), torch.finfo(torch.float32).max)
    pca = ClasswisePCA(
        mean=means,
        axes=torch.stack(axes),
        eigenvalues=torch.stack(values),
        ranks=torch.full((classes,), rank),
        counts=counts,
        gate_distance=anywhere,
        gate_energy=anywhere,
        memory=torch.cat(memory),
        memory_labels=torch.cat(owners),
    )
    return replace(fitted, pca=pca)
