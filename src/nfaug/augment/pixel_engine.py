"""PixelEngine: the arithmetic of one batch whose pixels themselves are mixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA, rows_by_class
from ..flows.flow import Flow
from ..run.blocks import blocks
from ..run.device import PerDevice, is_read_at_once
from .counters import Checks
from .engine import Engine
from .mixing import Batch, Encoded, Mixed, Mixture
from .pixels import Normalization

_LEAST = 8  # images of a class at a time, since their axes are read once


class PixelEngine(Engine):
    """An engine for builtin:pixels, which mixes pixels in the place of their latents.

    The flow is an affine map of gray levels u, v = (u + 1/2)/128 - 1, and mixing is affine. So the
    pixels are mixed, along axes that are rescaled to them, and variants are written class by class,
    without a tensor of all latents: `mix` decides how, and `decode` mixes, and asks the gate about
    regions. Pixels are gray levels in uint8, or intensities u / 255 of floating-point images of
    the fit's size. They are not rounded there, and their round trip is exact.
    """

    def __init__(
        self,
        flow: Flow,
        pca: ClasswisePCA | None,
        classes: Sequence[str] = (),
        source: str = "",
    ) -> None:
        super().__init__(flow, pca, classes, source)
        self._row = 4 * flow.config.dim  # bytes of an image in float32
        self._rescaled: dict[int, PerDevice[ClasswisePCA]] = {1: PerDevice(), 255: PerDevice()}

    def _axes(self, z: Tensor) -> ClasswisePCA:
        """The PCA of pixels u = 128 v + 127.5, or u / 255."""
        white = _white(z)
        unit = white / 255

        def rescaled(device: torch.device) -> ClasswisePCA:
            return self.on(device)[1].rescaled(128 * unit, 127.5 * unit)

        return self._rescaled[white].on(z.device, rescaled)

    def encode(
        self,
        batch: Batch,
        index: Tensor,
        gate: float | None,
        chosen: Tensor | None = None,
    ) -> Encoded:
        """The pixels of images, once for one or more calls of `mix`; the arguments are `Engine`'s.

        Images that are as they are mixed are not copied: the result has the batch and positions.
        """
        labels = batch.labels.index_select(0, index)
        ok = batch.ok.index_select(0, index)
        images = batch.images
        normalization = batch.normalization
        place = None
        if not self._is_replaced(images):
            pixels = self._levels(batch, index)
        elif _is_as_mixed(images, normalization):
            pixels = images
            place = index
        else:
            pixels = images.index_select(0, index).contiguous()
            if images.dtype != torch.uint8:
                pixels = normalization.unit(pixels)
                if normalization.pair is not None:
                    pixels = pixels.clamp_(0, 1)  # beyond it with random erasing
        pca = self._axes(pixels)
        a, energy = pca.locate(pixels, labels, place)
        everywhere = torch.ones_like(ok)
        inside = everywhere if gate is None else pca.is_inside(a, energy, labels, gate)
        return Encoded(pixels, a, labels, ok, inside, everywhere, pixels, pixels, place)

    def _mixed(
        self, encoded: Encoded, mixture: Mixture, inside: Tensor
    ) -> tuple[Encoded, Tensor, Tensor]:
        return encoded, inside, mixture.is_finite(self._axes(encoded.z).scale)

    def _variants(self, mixed: Mixed, rows: Tensor) -> tuple[Tensor, Checks]:
        """Pixels of variants, from black to white; and what holds of all images."""
        encoded, mixture, checks = mixed
        pca = self._axes(encoded.z)
        pixels = mixture.latents(encoded, pca, rows)
        if mixture.masks is not None and mixture.gate is not None:
            labels = encoded.labels.index_select(0, rows)
            checks = checks.found(rows, inside=pca.gate(pixels, labels, radius=mixture.gate))
        pixels = mixture.add_noise(pixels, pca.scale, rows)
        return pixels.clamp_(0, _white(encoded.z)), checks

    def _images(self, z: Tensor) -> Tensor:
        return z

    def _changes(self, z: Tensor, base: Tensor) -> Tensor:
        return z.sub_(base).div_(255)

    def _may_fail(self, batch: Batch) -> bool:
        """Pixels that are mixed are finite, `mix` has asked; half precision may overflow later."""
        return batch.normalization.pair is not None

    def _parts(self, rows: Tensor, labels: Tensor) -> list[Tensor]:
        """On a CPU the rows of a class, so many that their pixels are in its cache."""
        if not is_read_at_once(rows.device):
            return [rows]
        together = list(blocks(len(rows), self._row))
        if len(together) <= 1:
            return [rows[part] for part in together]
        parts = []
        for of_class in rows_by_class(labels, rows):
            for part in blocks(len(of_class), self._row, least=_LEAST):
                parts.append(of_class[part])
        return parts

    def _is_replaced(self, images: Tensor) -> bool:
        return tuple(images.shape[-2:]) == self.codec.image_size


def _is_as_mixed(images: Tensor, normalization: Normalization) -> bool:
    """Whether images of the fit's size hold the pixels that are mixed, as they came."""
    kept = images.dtype == torch.float32 and normalization.pair is None
    return images.is_contiguous() and (kept or images.dtype == torch.uint8)


def _white(pixels: Tensor) -> int:
    """The value of white: of intensities 1, of gray levels 255."""
    return 1 if pixels.is_floating_point() else 255
