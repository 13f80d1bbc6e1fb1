"""A batch, its latents, and how latents are mixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..run.device import is_read_at_once
from .draws import Draws
from .regions import mix_by_region

_SELF_MATCH = 1e-2  # relative distance: the memory is float16, and convolutions may use TF32


class Batch(NamedTuple):
    """Images whose values are checked, and their classes.

    Attributes:
        images: (B, C, H, W), of any size and type.
        labels: (B,) int64 in [0, K), the class of each image.
        ok: (B,) bool, whether an image has such a class and finite pixels. Others stay as they are,
            and are no partners.
    """

    images: Tensor
    labels: Tensor
    ok: Tensor


class Encoded(NamedTuple):
    """Latents of n images of a batch, and what mixing and decoding need of them.

    Attributes:
        z: (n, C, H, W) latents.
        a: (n, r) their coefficients along the axes of their class.
        labels, ok: (n,) those of the batch.
        inside: (n,) bool, whether the gate lets an image through.
        near: (n,) bool, whether the round trip of an image is exact, or need not be.
        low: (n, C, h, w) the images at the flow's size, uint8 or in [0, 1].
        base: (n, C, h, w) what `z` decodes to, of the same type. `low` itself, if the round trip
            is exact.
    """

    z: Tensor
    a: Tensor
    labels: Tensor
    ok: Tensor
    inside: Tensor
    near: Tensor
    low: Tensor
    base: Tensor

    def rows(self, index: Tensor) -> Encoded:
        """Those of the images at these positions."""
        return Encoded(*[each[index] for each in self])


def rows_where(wanted: Tensor) -> Tensor:
    """The positions of what is `wanted` (n,), or all positions where asking would wait."""
    if is_read_at_once(wanted.device):
        return wanted.nonzero().flatten()
    return torch.arange(len(wanted), device=wanted.device)


def find_partners(encoded: Encoded, draws: Draws, pca: ClasswisePCA) -> tuple[Tensor, Tensor]:
    """The PCA coefficients b (n, r) of the partners, and whether there is one to mix with, (n,).

    Self-matches in the memory use the fallback row. A partner can be of another class only if
    draws are replayed with other labels.
    """
    a = encoded.a
    labels = encoded.labels
    stored = draws.from_memory
    position = torch.where(stored, 0, draws.partner)
    b = a[position]
    valid = encoded.ok[position] & (labels[position] == labels)
    if pca.memory is None or pca.memory_labels is None:
        valid = valid & ~stored
    else:
        row = torch.where(stored, draws.partner, 0)
        fallback = torch.where(stored, draws.fallback, 0)
        first = pca.memory[row].float()
        second = pca.memory[fallback].float()
        known = torch.where(_same_image(a, first)[:, None], second, first)
        same_class = (pca.memory_labels[row] == labels) & (pca.memory_labels[fallback] == labels)
        valid = torch.where(stored, same_class, valid)
        b = torch.where(stored[:, None], known, b)
    return b, draws.paired & encoded.ok & valid & ~_same_image(a, b)


def _same_image(a: Tensor, b: Tensor) -> Tensor:
    """Whether coefficients are those of the same image, within 1%."""
    return (b - a).square().sum(1) <= _SELF_MATCH**2 * a.square().sum(1)


def mix_axes(
    encoded: Encoded, b: Tensor, moved: Tensor, draws: Draws, pca: ClasswisePCA
) -> tuple[Tensor, Tensor]:
    """z' = z + U (w * (b - a)) of the images that are moved (n,), and a' = a + w * (b - a).

    A row of w has a weight for each axis, or one for all.
    """
    delta = torch.where(moved[:, None], draws.weights * (b - encoded.a), 0.0)
    return pca.add(encoded.z, encoded.labels, delta), encoded.a + delta


def mix_regions(
    encoded: Encoded, b: Tensor, moved: Tensor, draws: Draws, pca: ClasswisePCA
) -> tuple[Tensor, Tensor]:
    """z' = z + w * (z2 - z) of the images that are moved (n,), and the masks w over positions.

    z2 is a latent of the batch, or m + U b with b from the memory.
    """
    z = encoded.z
    stored = draws.from_memory
    z2 = torch.empty_like(z)
    rows = rows_where(~stored)
    z2[rows] = z[torch.where(stored, 0, draws.partner)[rows]]
    rows = rows_where(stored)
    if len(rows):
        known = pca.rebuild(b[rows], encoded.labels[rows]).view(-1, *z.shape[1:])
        if not is_read_at_once(z.device):  # then the rows are all
            known = torch.where(stored[:, None, None, None], known, z2)
        z2[rows] = known
    masks = draws.weights * moved[:, None, None]
    return mix_by_region(z, z2, masks), masks
