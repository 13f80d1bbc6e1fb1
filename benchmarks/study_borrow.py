"""Axes and partners that a class borrows from the other classes: a variant of NFA's fit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nfaug import Checkpoint, ClasswisePCA

__all__ = ["with_borrowed"]


@torch.no_grad()
def with_borrowed(
    fitted: Checkpoint,
    images: Tensor,
    labels: Tensor,
    *,
    shrink: float,
    rank: int,
    partners: str,
) -> Checkpoint:
    """The checkpoint with axes of (1 - shrink) C_y + shrink C, C pooled over classes.

    `partners` is "own" for a memory of the class's images, "all" for the others' too, each as its
    deviation from its own class's mean: b = U_y^T (z_j - m_y(j)). Axes are rank at most; there is
    no gate, since borrowed directions lie outside what the class's own images span.
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
