"""Engine: the frozen flow and PCA of an NFAugment, and the arithmetic of one batch."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA, rows_by_class
from ..data.preprocess import resize_levels, round_levels
from ..flows.flow import Flow
from ..run.device import is_read_at_once
from .counters import Outcome
from .detail import add_change
from .draws import Draws
from .graphs import CudaGraphs
from .mixing import Batch, Encoded, Mixture, find_partners, rows_where
from .pixels import Normalization, all_finite, as_unit, resize
from .regions import mix_by_region

# A flow maps images unlike its training images to large latents, where float32 loses digits. Of
# builtin:gray28, every image with an inexact round trip has max|z| >= 57, and its own images have
# less than about 10. A flow whose class Gaussians lie far apart has some of its own beyond the
# limit: 4 of 100 of builtin:fashion-mnist, whose round trips are exact all the same.
FAR = 32.0
_IN_CACHE = 2**18  # values of pixels that the CPU computes with at a time: 1 MiB
_LEAST = 8  # images of a class at a time, since their axes are read once


def not_fitted(name: str, argument: str) -> ValueError:
    """The error about a checkpoint without axes; `argument` is how Python names it."""
    return ValueError(
        f"{name} must be fitted to your classes first, in one pass over your images: "
        f"nfaug.NFAugment(nfaug.fit({argument}, dataset)), or the command nfaug fit"
    )


class Engine:
    """A frozen flow and a classwise PCA, with copies on every device that images arrive on.

    A plain object, so that a module that holds it gets no parameters, buffers or sub-modules. It
    is immutable, and copies of that module share it. A pickle leaves out copies for other devices.
    Worker processes that are spawned share the axes, and each gets a flow of its own.

    builtin:pixels is an affine map of grey levels u, v = (u + 1/2)/128 - 1, and mixing is affine.
    So the pixels themselves are mixed there, along axes that are rescaled to them, and variants are
    written class by class, without a tensor of all latents. Pixels are grey levels in uint8, or
    intensities u / 255 of floating-point images of the fit's size.
    """

    def __init__(
        self,
        flow: Flow,
        pca: ClasswisePCA | None,
        classes: Sequence[str] = (),
        class_warning: str = "",
    ) -> None:
        if pca is None:
            raise not_fitted("this checkpoint", "checkpoint")
        if pca.dim != flow.config.dim:
            raise ValueError(
                f"the axes have {pca.dim} dimensions and the flow {flow.config.dim}: fit the flow "
                "to your classes with nfaug.fit"
            )
        self.codec = flow.codec
        self.classes = tuple(classes)
        self.class_warning = class_warning
        self.num_classes = pca.num_classes
        self.rank = pca.rank
        self.has_memory = pca.has_memory
        frozen = flow.freeze()
        self.device = frozen.device
        self._part = max(1, _IN_CACHE // flow.config.dim)
        self._in_pixels = frozen.shape_free
        self._pixel_axes: dict[tuple[torch.device, bool], ClasswisePCA] = {}
        self._copies: dict[torch.device, tuple[Flow, ClasswisePCA]] = {
            self.device: (frozen, _on_device(pca, self.device))
        }
        self.graphs: CudaGraphs | None = None  # what `with_cuda_graphs` captured

    @classmethod
    def of(cls, checkpoint: Any) -> Engine:
        """The engine of a checkpoint, of its name or path, or of itself."""
        if isinstance(checkpoint, (str, Path)):
            from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

            name = str(checkpoint)
            checkpoint = load(checkpoint, gaussians=False)
            if checkpoint.pca is None:
                raise not_fitted(name, repr(name))
        if isinstance(checkpoint, Engine):
            return checkpoint
        if not hasattr(checkpoint, "pca"):
            wanted = "a Checkpoint, its name or its path"
            raise TypeError(
                f"checkpoint must be {wanted}; got {type(checkpoint).__name__}. Images are fitted "
                'first: NFAugment(nfaug.fit("builtin:pixels", dataset))'
            )
        classes = checkpoint.config.classes or ()
        return cls(checkpoint.flow, checkpoint.pca, classes, checkpoint.class_warning)

    def with_cuda_graphs(self) -> Engine:
        """An engine that shares the flow and the PCA, and replays CUDA graphs of the flow."""
        engine = copy.copy(self)
        engine._copies = self._copies
        engine.graphs = CudaGraphs()
        return engine

    def on(self, device: torch.device) -> tuple[Flow, ClasswisePCA]:
        """The flow and the PCA on a device, copied there by the first call."""
        if device not in self._copies:
            device = torch.empty(0, device=device).device  # with its number: "cuda:0" for "cuda"
        if device not in self._copies:
            flow, pca = self._copies[self.device]
            self._copies[device] = _on_device(flow, device), _on_device(pca, device)
        return self._copies[device]

    def _axes(self, z: Tensor) -> ClasswisePCA:
        """The PCA of what is mixed: of latents, or of pixels u = 128 v + 127.5, or u / 255."""
        if not self._in_pixels:
            return self.on(z.device)[1]
        key = z.device, z.is_floating_point()
        if key not in self._pixel_axes:
            unit = _white(z) / 255
            self._pixel_axes[key] = self.on(z.device)[1].rescaled(128 * unit, 127.5 * unit)
        return self._pixel_axes[key]

    def encode(
        self,
        batch: Batch,
        index: Tensor,
        normalization: Normalization,
        gate: float | None,
        chosen: Tensor | None = None,
    ) -> Encoded:
        """Encode images once, for one or more calls of `mix`.

        Args:
            batch: The batch.
            index: (n,) positions of the images to encode.
            normalization: Normalization of the images.
            gate: Radius of the class's range; None for no gate.
            chosen: (n,) bool, the images that `mix` changes, if it is one call: of an autoencoder,
                the CPU then decodes the latents of these alone.
        """
        labels = batch.labels.index_select(0, index)
        images = batch.images
        place = None
        if self._is_as_mixed(images, normalization):
            low = images
            place = index
        elif self._is_replaced(images):
            low = images.index_select(0, index).contiguous()
            if images.dtype != torch.uint8:
                low = normalization.unit(low)
                if normalization.pair is not None:
                    low = low.clamp_(0, 1)  # beyond it with random erasing
        else:
            low = self._levels(images, index, normalization)
        z = low
        if not self._in_pixels:
            z = self._call("encode", self.on(low.device)[0].latents, low)
        pca = self._axes(z)
        a, energy = pca.locate(z, labels, place)
        inside = torch.ones_like(labels, dtype=torch.bool)
        near = inside
        if gate is not None:
            inside = pca.is_inside(a, energy, labels, gate)
        base = low
        if not self.codec.exact:
            low = low / 255
            base = low.clone()
            rows = rows_where(inside if chosen is None else inside & chosen)
            base[rows] = self._call("decode", self._decode_unit, z[rows])
        elif not self._in_pixels:
            near = z.flatten(1).amax(1).maximum(-z.flatten(1).amin(1)) <= FAR
        ok = batch.ok.index_select(0, index)
        return Encoded(z, a, labels, ok, inside, near, low, base, place)

    def mix(
        self, encoded: Encoded, draws: Draws, gate: float | None
    ) -> tuple[Encoded, Mixture, Tensor]:
        """Decide how latents are mixed with those of their partners, and mix those of a flow.

        Args:
            encoded: The latents, in the order of `draws.index`.
            draws: The draws.
            gate: Radius of the class's range; None for no gate.

        Returns:
            The latents of the variants with what these are to be compared with, the mixture, and
            the code of each image's `Outcome`, (n,). Pixels are as they were: `decode` mixes
            them, and may change APPLIED to GATED. It may also change APPLIED to FELL_BACK.
        """
        pca = self._axes(encoded.z)
        b, paired = find_partners(encoded, draws, pca)
        moved = draws.chosen & paired
        inside = encoded.inside
        delta = None
        masks = None
        if draws.mix == "regions":
            masks = draws.weights * moved[:, None, None]
            # The partner that was drawn may have NaN, which no mask takes away.
            own = torch.arange(len(moved), device=moved.device)
            partner = torch.where(moved | draws.from_memory, draws.partner, own)
            draws = dataclasses.replace(draws, partner=partner)
        else:
            delta = torch.where(moved[:, None], draws.weights * (b - encoded.a), 0.0)
            if gate is not None:
                # A move along the axes does not change the energy outside their span.
                inside = inside & pca.is_near(encoded.a + delta, encoded.labels, gate)
        changes = paired
        noise = None
        if draws.noise.shape[1]:  # which needs no partner
            changes = encoded.ok
            noise = torch.where((draws.chosen & changes)[:, None], draws.noise, 0.0)
        mixture = Mixture(b, delta, masks, noise, draws)
        if self._in_pixels:
            finite = mixture.is_finite(pca.scale)
        else:
            z = mixture.latents(encoded, pca)
            if masks is not None and gate is not None:
                inside = inside & pca.gate(z, encoded.labels, radius=gate)
            if masks is not None and not self.codec.exact:
                # The detail that it loses goes where the image goes.
                low = encoded.low.clone()
                encoded = encoded._replace(base=mix_by_region(encoded.base, low, masks))
            encoded = encoded._replace(z=mixture.add_noise(z, pca.scale))
            finite = all_finite(encoded.z)
        outcome = torch.full_like(encoded.labels, Outcome.APPLIED.value)
        ladder = (  # the first that does not hold decides
            (encoded.ok, Outcome.NOT_FINITE),
            (draws.chosen, Outcome.UNCHOSEN),
            (finite, Outcome.FELL_BACK),
            (changes, Outcome.NO_PARTNER),
            (inside, Outcome.GATED),
            (encoded.near, Outcome.FAR),
        )
        for holds, otherwise in reversed(ladder):
            outcome.masked_fill_(~holds, otherwise.value)
        return encoded, mixture, outcome

    def decode(
        self,
        mixed: Encoded,
        mixture: Mixture,
        outcome: Tensor,
        images: Tensor,
        index: Tensor,
        normalization: Normalization,
        gate: float | None,
    ) -> None:
        """Decode the variants that are applied, and write them over their images.

        Images of the flow's size become decode(z') if they are of 8 bits, or in pixels. To all
        others, and where the round trip is not exact, the change decode(z') - base is added
        (`add_change`).

        Args:
            mixed: The latents of the variants, or pixels that are to be mixed.
            mixture: How these are mixed.
            outcome: (n,) codes, as `mix` returns them; GATED is written into it for pixels
                mixed by region that the gate refuses, and FELL_BACK for variants that are not
                finite.
            images: (B, C, H, W) images of the batch.
            index: (n,) positions of the variants in it.
            normalization: Normalization of the images.
            gate: Radius of the class's range; None for no gate.
        """
        replaced = self._is_replaced(images)
        is_8_bit = images.dtype == torch.uint8
        # Pixels that are mixed are finite: `mix` has asked. Normalization in half precision may
        # overflow.
        may_fail = not self._in_pixels or normalization.pair is not None
        for rows in self._parts(rows_where(outcome == Outcome.APPLIED), mixed.labels):
            places = index.index_select(0, rows)
            codes = outcome.index_select(0, rows)
            if self._in_pixels:
                new = self._mixed_pixels(mixed, mixture, rows, codes, gate)
            else:
                new = self._call("decode", self._decode_unit, mixed.z.index_select(0, rows))
                if replaced:
                    new.mul_(255)
            if not replaced:  # so that `base` and `low` are those of n images
                old = normalization.unit(images.index_select(0, places))
                base = mixed.base.index_select(0, rows)
                if self._in_pixels:
                    change = new.sub_(base).div_(255)
                else:
                    change = new.sub_(as_unit(base))
                new = add_change(old, change, mixed.low.index_select(0, rows))
                if is_8_bit:
                    new.mul_(255)
            if not is_8_bit:
                new = normalization.undo(new).to(images.dtype)
            if may_fail:
                fails = (codes == Outcome.APPLIED) & ~all_finite(new)
                codes.masked_fill_(fails, Outcome.FELL_BACK.value)
            if is_8_bit:
                new.round_()  # after the check: conversion to 8 bits would hide NaN
            _write(images, places, codes == Outcome.APPLIED, new)
            outcome.index_copy_(0, rows, codes)

    def _mixed_pixels(
        self, mixed: Encoded, mixture: Mixture, rows: Tensor, codes: Tensor, gate: float | None
    ) -> Tensor:
        """Pixels of variants, from black to white; GATED is written into the codes (m,)."""
        pca = self._axes(mixed.z)
        pixels = mixture.latents(mixed, pca, rows)
        if mixture.masks is not None and gate is not None:
            inside = pca.gate(pixels, mixed.labels.index_select(0, rows), radius=gate)
            codes.masked_fill_((codes == Outcome.APPLIED) & ~inside, Outcome.GATED.value)
        return mixture.add_noise(pixels, pca.scale, rows).clamp_(0, _white(mixed.z))

    def _parts(self, rows: Tensor, labels: Tensor) -> list[Tensor]:
        """Positions of images that are decoded together: of pixels on a CPU, those of a class."""
        if not (self._in_pixels and is_read_at_once(rows.device)):
            return [rows]
        if len(rows) <= self._part:
            return [rows] if len(rows) else []
        size = max(_LEAST, self._part)
        return [part for of_class in rows_by_class(labels, rows) for part in of_class.split(size)]

    def _decode_unit(self, z: Tensor) -> Tensor:
        return self.on(z.device)[0].decode(z, quantize=False)

    def _call(self, name: str, function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        if self.graphs is None:
            return function(given)
        return self.graphs.call(name, function, given)

    def _is_replaced(self, images: Tensor) -> bool:
        """Whether variants are the decoded latents alone, without a change that is added."""
        fits = tuple(images.shape[-2:]) == self.codec.image_size
        return fits and self.codec.exact and (self._in_pixels or images.dtype == torch.uint8)

    def _is_as_mixed(self, images: Tensor, normalization: Normalization) -> bool:
        """Whether the pixels that are mixed are those of the images as they came."""
        kept = images.dtype == torch.float32 and normalization.pair is None
        as_they_are = images.is_contiguous() and (kept or images.dtype == torch.uint8)
        return as_they_are and self._in_pixels and self._is_replaced(images)

    def _levels(self, images: Tensor, index: Tensor, normalization: Normalization) -> Tensor:
        """Grey levels of images (n,) resized to the flow's size, uint8 if its round trip is exact.

        Flows amplify changes below a grey level a hundredfold, and the class statistics, axes and
        gate are those of 8-bit images, which were resized as such.
        """
        size = self.codec.image_size
        together = len(index)
        if is_read_at_once(index.device):
            together = _IN_CACHE // math.prod(images.shape[1:])
        levels = []
        for places in index.split(max(1, together)):
            part = images.index_select(0, places)
            if not self.codec.exact:
                unit = resize(normalization.unit(part), size)
                # Images with NaN stay unchanged, whatever their levels are.
                levels.append(unit.mul_(255).clamp_(0, 255).nan_to_num_(0.0))
                continue
            if part.dtype != torch.uint8:
                unit = normalization.unit(part).clamp(0, 1).nan_to_num_(0.0)
                part = round_levels(unit.mul_(255)).to(torch.uint8)
            levels.append(resize_levels(part, size))
        return torch.cat(levels)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        home = self._copies[self.device]
        state: dict[str, Any] = {
            **self.__dict__,
            "_copies": {self.device: home},
            "_pixel_axes": {},
        }
        if self.device.type == "cpu" and get_spawning_popen() is not None:
            # As bytes: each tensor would be a file descriptor, of which a forkserver passes 253.
            flow, pca = home
            state["_copies"] = _InBytes(pickle.dumps((flow, self.codec)), pca)
            del state["codec"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        copies = state["_copies"]
        if isinstance(copies, _InBytes):
            flow, self.codec = pickle.loads(copies.flow_and_codec)
            self._copies = {self.device: (flow, copies.pca)}


class _InBytes(NamedTuple):
    """What a spawned worker gets of an engine: a pickle of the flow and its codec, and the PCA."""

    flow_and_codec: bytes
    pca: ClasswisePCA


def _white(pixels: Tensor) -> int:
    """The value of white: of intensities 1, of grey levels 255."""
    return 1 if pixels.is_floating_point() else 255


def _write(images: Tensor, places: Tensor, kept: Tensor, new: Tensor) -> None:
    """Write those images (m,) of `new` that are kept to their places among the images."""
    if not is_read_at_once(images.device):
        old = images.index_select(0, places)
        new = torch.where(kept[:, None, None, None], new, old).to(images.dtype)
        images.index_copy_(0, places, new)
        return
    # The CPU's index_copy_ moves single values, which for bytes takes ten times as long.
    for place, keeps, image in zip(places.tolist(), kept.tolist(), new, strict=True):
        if keeps:
            images[place] = image


def _on_device(module: Any, device: torch.device) -> Any:
    """A copy of a module that shares the tensors that are on the device already.

    Moving the original later does not move the copy.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in module.buffers()}).to(device)
