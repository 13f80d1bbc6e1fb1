"""How latents are mixed: partners, and one function for each way of mixing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..io.device import is_read_at_once
from .params import NFAParams, rows_where
from .regions import mix_by_region

__all__ = ["MIXES", "Latents", "Mixed", "find_partners"]

_SELF_MATCH = 1e-2  # relative distance: the memory is float16, and convolutions may use TF32


@dataclass(frozen=True)
class Latents:
    """Latents of images, and what mixing needs of them.

    Attributes:
        z: (n, C, H, W) latents.
        a: (n, r) PCA coefficients.
        labels: (n,) class indices in range.
        usable: (n,) bool, whether an image has a label and finite pixels.
        inside: (n,) bool, whether a latent lies in its class's range.
        base: (n, C, H, W) in [0, 1] or uint8, what `z` decodes to, where the change of an image is
            added to it; None where the new image is the decoded latent.
        resized: (n, C, H, W) in [0, 1], the images at the flow's size, where decoding `z` loses
            detail; else None.
        gate: Radius of the class's range; None for no gate.
    """

    z: Tensor
    a: Tensor
    labels: Tensor
    usable: Tensor
    inside: Tensor
    base: Tensor | None
    resized: Tensor | None
    gate: float | None

    def rows(self, index: Tensor) -> Latents:
        """Those of the images at these positions."""
        return Latents(
            z=self.z[index],
            a=self.a[index],
            labels=self.labels[index],
            usable=self.usable[index],
            inside=self.inside[index],
            base=None if self.base is None else self.base[index],
            resized=None if self.resized is None else self.resized[index],
            gate=self.gate,
        )


@dataclass(frozen=True)
class Mixed:
    """Mixed latents `z`, whether they are still `inside`, and the `base` to compare them with."""

    z: Tensor
    inside: Tensor
    base: Tensor | None


def find_partners(latents: Latents, params: NFAParams, pca: ClasswisePCA) -> tuple[Tensor, Tensor]:
    """The PCA coefficients b (n, r) of the partners, and whether there is one to mix with, (n,).

    Self-matches in the memory use the fallback row. A partner can be of another class only if
    draws are replayed with other labels.
    """
    a = latents.a
    labels = latents.labels
    stored = params.from_memory
    position = torch.where(stored, 0, params.partner)
    b = a[position]
    valid = latents.usable[position] & (labels[position] == labels)
    if pca.memory is None or pca.memory_labels is None:
        valid = params.paired & valid & ~stored
    else:
        row = torch.where(stored, params.partner, 0)
        fallback = torch.where(stored, params.fallback, 0)
        first = pca.memory[row].float()
        second = pca.memory[fallback].float()
        known = torch.where(_same_image(a, first)[:, None], second, first)
        same_class = (pca.memory_labels[row] == labels) & (pca.memory_labels[fallback] == labels)
        valid = params.paired & torch.where(stored, same_class, valid)
        b = torch.where(stored[:, None], known, b)
    return b, latents.usable & valid & ~_same_image(a, b)


def _same_image(a: Tensor, b: Tensor) -> Tensor:
    """Whether coefficients are those of the same image, within 1%."""
    return (b - a).square().sum(1) <= _SELF_MATCH**2 * a.square().sum(1)


def _mix_axes(
    latents: Latents, b: Tensor, chosen: Tensor, params: NFAParams, pca: ClasswisePCA
) -> Mixed:
    """z' = z + U (w * (b - a)), with a weight for each axis, or one for all.

    A move along the axes does not change the energy outside their span, so that the distance
    within it decides whether z' is in range.
    """
    delta = torch.where(chosen[:, None], params.weights * (b - latents.a), 0.0)
    z = pca.add(latents.z, latents.labels, delta)
    inside = latents.inside
    if latents.gate is not None:
        inside = inside & pca.is_near(latents.a + delta, latents.labels, latents.gate)
    return Mixed(z, inside, latents.base)


def _mix_regions(
    latents: Latents, b: Tensor, chosen: Tensor, params: NFAParams, pca: ClasswisePCA
) -> Mixed:
    """z' = z + w * (z2 - z), with a mask w over positions.

    z2 is a latent of the batch, or m + U b with b from the memory.
    """
    z = latents.z
    stored = params.from_memory
    z2 = torch.empty_like(z)
    rows = rows_where(~stored)
    z2[rows] = z[torch.where(stored, 0, params.partner)[rows]]
    rows = rows_where(stored)
    if len(rows):
        known = pca.rebuild(b[rows], latents.labels[rows]).view(-1, *z.shape[1:])
        if not is_read_at_once(z.device):  # then the rows are all
            known = torch.where(stored[:, None, None, None], known, z2)
        z2[rows] = known
    masks = params.weights * chosen[:, None, None]
    z = mix_by_region(z, z2, masks)
    base = latents.base
    if base is not None and latents.resized is not None:
        # The detail that the round trip loses goes where the image goes.
        base = mix_by_region(base, latents.resized, masks)
    inside = latents.inside
    if latents.gate is not None:
        inside = inside & pca.gate(z, latents.labels, radius=latents.gate)
    return Mixed(z, inside, base)


MIXES: dict[str, Callable[[Latents, Tensor, Tensor, NFAParams, ClasswisePCA], Mixed]] = {
    "axis": _mix_axes,
    "pair": _mix_axes,
    "regions": _mix_regions,
}
