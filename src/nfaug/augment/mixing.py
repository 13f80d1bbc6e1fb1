"""A batch, its latents, and how latents are mixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..run.device import is_read_at_once
from .counters import Checks
from .draws import Draws
from .pixels import Normalization
from .regions import mix_by_region

_SELF_MATCH = 1e-2  # relative distance: the memory is float16, and convolutions may use TF32


_OF_IMAGES = ("a", "labels", "ok", "inside", "near")  # fields with a row for each image


class Batch(NamedTuple):
    """Images whose values are checked, and their classes.

    Attributes:
        images: (B, C, H, W), of any size and type.
        labels: (B,) int64 in [0, K), the class of each image.
        ok: (B,) bool, whether an image has such a class and finite pixels. Others stay as they are,
            and are no partners.
        normalization: That of the images.
    """

    images: Tensor
    labels: Tensor
    ok: Tensor
    normalization: Normalization


class Encoded(NamedTuple):
    """Latents of n images of a batch, and what mixing and decoding need of them.

    Attributes:
        z: (n, C, H, W) latents, or pixels: gray levels of 8 bits, or intensities. With `place` they
            are the images of the batch, (B, C, H, W).
        a: (n, r) their coefficients along the axes of their class.
        labels, ok: (n,) those of the batch.
        inside: (n,) bool, whether the gate lets an image through.
        near: (n,) bool, whether the round trip of an image is exact, or need not be.
        low: (n, C, h, w) the images at the flow's size, uint8 or in [0, 1]. Not read with `place`.
        base: (n, C, h, w) what `z` decodes to, of the same type. `low` itself, if the round trip
            is exact.
        place: (n,) positions of the n images in `z`, or None for all in order.
    """

    z: Tensor
    a: Tensor
    labels: Tensor
    ok: Tensor
    inside: Tensor
    near: Tensor
    low: Tensor
    base: Tensor
    place: Tensor | None

    def rows(self, index: Tensor) -> Encoded:
        """Those of the images at these positions."""
        few = {name: getattr(self, name).index_select(0, index) for name in _OF_IMAGES}
        if self.place is not None:
            return self._replace(place=self.place.index_select(0, index), **few)
        z = self.z.index_select(0, index)
        low = z if self.low is self.z else self.low.index_select(0, index)
        base = low if self.base is self.low else self.base.index_select(0, index)
        return self._replace(z=z, low=low, base=base, **few)

    def latents(self, rows: Tensor | None) -> Tensor:
        """The latents at these positions, (m, C, H, W); None for all."""
        if self.place is not None:
            rows = _taken(self.place, rows)
        return _taken(self.z, rows)


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


class Mixture(NamedTuple):
    """How n latents are mixed with those of their partners.

    Attributes:
        b: (n, r) coefficients of the partners.
        delta: (n, r) changes w * (b - a) of the coefficients, 0 for images that are not moved; None
            with masks.
        masks: (n, h, w) masks over positions, 0 for images that are not moved; or None.
        noise: (n, d), 0 for images that get none; or None.
        draws: The draws, which say where partners come from.
        gate: Radius of the class's range for variants, or None for no gate.
    """

    b: Tensor
    delta: Tensor | None
    masks: Tensor | None
    noise: Tensor | None
    draws: Draws
    gate: float | None

    def latents(self, encoded: Encoded, pca: ClasswisePCA, rows: Tensor | None = None) -> Tensor:
        """The latents of the variants at these positions, None for all; (m, C, H, W).

            z' = z + s U delta,    z' = z + w * (z2 - z)

        s is the scale of the PCA. z2 is a latent of the batch, or m + s U b with b from the memory.
        """
        z = encoded.latents(rows)
        if self.masks is None:
            assert self.delta is not None
            return pca.add(z, _taken(encoded.labels, rows), _taken(self.delta, rows))
        partners = self._partners(encoded, pca, rows)
        return mix_by_region(z.to(partners.dtype), partners, _taken(self.masks, rows))

    def add_noise(self, z: Tensor, scale: float, rows: Tensor | None = None) -> Tensor:
        """Latents of variants with their noise, z + s noise."""
        if self.noise is None:
            return z
        return z + (_taken(self.noise, rows) * scale).view_as(z)

    def is_finite(self, scale: float) -> Tensor:
        """Whether variants of finite latents are finite, (n,) bool.

        No value of s U delta is larger than the sum of |s delta|.
        """
        finite = torch.ones_like(self.draws.chosen)
        for values, factor in ((self.delta, scale), (self.masks, 1.0), (self.noise, scale)):
            if values is not None:
                finite &= (values.flatten(1).abs().sum(1) * factor).isfinite()
        return finite

    def _partners(self, encoded: Encoded, pca: ClasswisePCA, rows: Tensor | None) -> Tensor:
        """The latents z2 of the partners, in floating point and a new tensor."""
        z = encoded.z
        stored = _taken(self.draws.from_memory, rows)
        known = rows_where(stored)  # on an accelerator all
        labels = _taken(encoded.labels, rows).index_select(0, known)
        rebuilt = pca.rebuild(_taken(self.b, rows).index_select(0, known), labels)
        rebuilt = rebuilt.view(-1, *z.shape[1:])
        reads = is_read_at_once(z.device)
        if reads and len(known) == len(stored):
            return rebuilt
        position = torch.where(stored, 0, _taken(self.draws.partner, rows))
        z2 = encoded.latents(position).to(torch.promote_types(z.dtype, torch.float32))
        if reads:
            z2[known] = rebuilt
            return z2
        return torch.where(stored[:, None, None, None], rebuilt, z2)


class Mixed(NamedTuple):
    """Variants of n images before they are decoded.

    Attributes:
        encoded: Their latents, with what these are to be compared with.
        mixture: How they are mixed.
        checks: Which of them are to replace their images.
    """

    encoded: Encoded
    mixture: Mixture
    checks: Checks


def _taken(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)
