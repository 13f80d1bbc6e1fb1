"""Engine: the frozen flow and PCA of an NFAugment, and the arithmetic of one batch of latents."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Iterable, Sequence
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..data.resize import resize_levels, round_levels
from ..flows.flow import Flow
from ..run.blocks import blocks
from ..run.device import PerDevice, is_read_at_once
from .box import Box, centre_box
from .counters import Checks
from .detail import add_change
from .draws import Draws
from .mixing import Batch, Encoded, Mixed, Mixture, find_partners, rows_where
from .pixels import all_finite, as_unit, resize
from .regions import mix_by_region

# A flow maps images unlike its training images to large latents, where float32 loses digits. Of
# builtin:gray28, every image with an inexact round trip has max|z| >= 57, and its own images have
# less than about 10. A flow whose class Gaussians lie far apart has some of its own beyond the
# limit: 4 of 100 of builtin:fashion-mnist, whose round trips are exact all the same.
FAR = 32.0


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
    `PixelEngine` does the same arithmetic in pixels.
    """

    def __init__(
        self,
        flow: Flow,
        pca: ClasswisePCA | None,
        classes: Sequence[str] = (),
        source: str = "",
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
        self.source = source  # where the order of the classes comes from, as `Checkpoint` says it
        self.num_classes = pca.num_classes
        self.rank = pca.rank
        self.has_memory = pca.has_memory
        frozen = flow.freeze()
        self.device = frozen.device
        self._home = frozen, _on_device(pca, self.device)
        self._copies: PerDevice[tuple[Flow, ClasswisePCA]] = PerDevice()

    def on(self, device: torch.device) -> tuple[Flow, ClasswisePCA]:
        """The flow and the PCA on a device, copied there by the first call."""
        return self._copies.on(device, self._copied)

    def _copied(self, device: torch.device) -> tuple[Flow, ClasswisePCA]:
        if device == self.device:
            return self._home
        flow, pca = self._home
        return _on_device(flow, device), _on_device(pca, device)

    def _axes(self, z: Tensor) -> ClasswisePCA:
        """The PCA of what is mixed."""
        return self.on(z.device)[1]

    def encode(
        self,
        batch: Batch,
        index: Tensor,
        gate: float | None,
        chosen: Tensor | None = None,
    ) -> Encoded:
        """Encode images once, for one or more calls of `mix`.

        Args:
            batch: The batch.
            index: (n,) positions of the images to encode.
            gate: Radius of the class's range; None for no gate.
            chosen: (n,) bool, the images that `mix` changes, if it is one call: of an autoencoder,
                the CPU then decodes the latents of these alone.
        """
        labels = batch.labels.index_select(0, index)
        ok = batch.ok.index_select(0, index)
        if self._is_replaced(batch.images):
            low = batch.images.index_select(0, index).contiguous()
        else:
            low = self._levels(batch, index)
        z = self.on(low.device)[0].latents(low)
        pca = self._axes(z)
        a, energy = pca.locate(z, labels)
        everywhere = torch.ones_like(ok)
        inside = everywhere if gate is None else pca.is_inside(a, energy, labels, gate)
        if self.codec.exact:
            near = z.flatten(1).amax(1).maximum(-z.flatten(1).amin(1)) <= FAR
            return Encoded(z, a, labels, ok, inside, near, low, base=low, place=None)
        low = low / 255
        base = low.clone()
        rows = rows_where(inside if chosen is None else inside & chosen)
        base[rows] = self._decode_unit(z[rows])
        return Encoded(z, a, labels, ok, inside, everywhere, low, base, place=None)

    def mix(self, encoded: Encoded, draws: Draws, gate: float | None) -> Mixed:
        """Mix latents with those of their partners.

        Args:
            encoded: The latents, in the order of `draws.index`.
            draws: The draws.
            gate: Radius of the class's range; None for no gate.

        Returns:
            The variants, for `decode`.
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
        mixture = Mixture(b, delta, masks, noise, draws, gate)
        encoded, inside, finite = self._mixed(encoded, mixture, inside)
        checks = Checks(
            ok=encoded.ok,
            chosen=draws.chosen,
            finite=finite,
            changes=changes,
            inside=inside,
            near=encoded.near,
            decoded=finite,  # so far
        )
        return Mixed(encoded, mixture, checks)

    def _mixed(
        self, encoded: Encoded, mixture: Mixture, inside: Tensor
    ) -> tuple[Encoded, Tensor, Tensor]:
        """The latents of the variants, which of them the gate lets through, and which are finite.

        `inside` are those that it has let through so far.
        """
        pca = self._axes(encoded.z)
        z = mixture.latents(encoded, pca)
        if mixture.masks is not None and mixture.gate is not None:
            inside = inside & pca.gate(z, encoded.labels, radius=mixture.gate)
        if mixture.masks is not None and not self.codec.exact:
            # The detail that it loses goes where the image goes.
            low = encoded.low.clone()
            encoded = encoded._replace(base=mix_by_region(encoded.base, low, mixture.masks))
        encoded = encoded._replace(z=mixture.add_noise(z, pca.scale))
        return encoded, inside, all_finite(encoded.z)

    def decode(self, batch: Batch, mixed: Mixed) -> tuple[Tensor, Checks]:
        """Decode the variants that are to replace their images.

        Images of the flow's size become decode(z') if they are of 8 bits. To all others, and where
        the round trip is not exact, the change decode(z') - base is added (`add_change`).

        Args:
            batch: The batch.
            mixed: The variants of n of its images, as `mix` returns them.

        Returns:
            A copy of the images, with variants in their places; and what holds of the n images.
        """
        images = batch.images.clone()
        is_8_bit = images.dtype == torch.uint8
        index = mixed.mixture.draws.index
        for rows in self._parts(rows_where(mixed.checks.hold()), mixed.encoded.labels):
            places = index.index_select(0, rows)
            z, checks = self._variants(mixed, rows)
            if self._is_replaced(images):
                new = self._images(z)
            else:
                change = self._changes(z, mixed.encoded.base.index_select(0, rows))
                low = mixed.encoded.low.index_select(0, rows)
                old = batch.normalization.unit(images.index_select(0, places))
                new = add_change(old, change, low, self._box(images))
                if is_8_bit:
                    new.mul_(255)
            if not is_8_bit:
                new = batch.normalization.undo(new).to(images.dtype)
            if self._may_fail(batch):
                checks = checks.found(rows, decoded=all_finite(new))
            if is_8_bit:
                new.round_()  # after the check: conversion to 8 bits would hide NaN
            _write(images, places, checks.hold().index_select(0, rows), new)
            mixed = mixed._replace(checks=checks)
        return images, mixed.checks

    def _variants(self, mixed: Mixed, rows: Tensor) -> tuple[Tensor, Checks]:
        """The latents of the variants at these rows, (m, C, H, W); and what holds of all n."""
        return mixed.encoded.z.index_select(0, rows), mixed.checks

    def _images(self, z: Tensor) -> Tensor:
        """Variants in gray levels, of their latents, which may be overwritten."""
        return self._decode_unit(z).mul_(255)

    def _changes(self, z: Tensor, base: Tensor) -> Tensor:
        """What variants add to their images, (m, C, h, w), in [-1, 1]."""
        return self._decode_unit(z).sub_(as_unit(base))

    def _may_fail(self, batch: Batch) -> bool:
        """Whether a variant of finite latents may have values that are not finite."""
        return True

    def _parts(self, rows: Tensor, labels: Tensor) -> list[Tensor]:
        """The rows of variants that are decoded together."""
        return [rows]

    def _decode_unit(self, z: Tensor) -> Tensor:
        return self.on(z.device)[0].decode(z, quantize=False)

    def _is_replaced(self, images: Tensor) -> bool:
        """Whether variants are the decoded latents alone, without a change that is added."""
        fits = tuple(images.shape[-2:]) == self.codec.image_size
        return fits and self.codec.exact and images.dtype == torch.uint8

    def _box(self, images: Tensor) -> Box:
        """The part of the images that the flow sees: a fit crops images so."""
        return centre_box((images.shape[-2], images.shape[-1]), self.codec.image_size)

    def _levels(self, batch: Batch, index: Tensor) -> Tensor:
        """Gray levels of images (n,) cropped and resized to the flow's size.

        They are uint8 if the round trip of the flow is exact.

        Flows amplify changes below a gray level a hundredfold, and the class statistics, axes and
        gate are those of 8-bit images, which were resized as such.
        """
        size = self.codec.image_size
        left, top, right, bottom = self._box(batch.images)
        images = batch.images[..., top:bottom, left:right]
        parts: Iterable[slice] = [slice(None)]
        if len(index) and is_read_at_once(index.device):
            parts = blocks(len(index), 4 * math.prod(images.shape[1:]))
        levels = []
        for rows in parts:
            part = images.index_select(0, index[rows])
            if not self.codec.exact:
                unit = resize(batch.normalization.unit(part), size)
                # Images with NaN stay unchanged, whatever their levels are.
                levels.append(unit.mul_(255).clamp_(0, 255).nan_to_num_(0.0))
                continue
            if part.dtype != torch.uint8:
                unit = batch.normalization.unit(part).clamp(0, 1).nan_to_num_(0.0)
                part = round_levels(unit.mul_(255)).to(torch.uint8)
            levels.append(resize_levels(part, size))
        return torch.cat(levels)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.device.type == "cpu" and get_spawning_popen() is not None:
            # As bytes: each tensor would be a file descriptor, of which a forkserver passes 253.
            flow, pca = self._home
            state["_home"] = _InBytes(pickle.dumps((flow, self.codec)), pca)
            del state["codec"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        home = state["_home"]
        if isinstance(home, _InBytes):
            flow, self.codec = pickle.loads(home.flow_and_codec)
            self._home = flow, home.pca


class _InBytes(NamedTuple):
    """What a spawned worker gets of an engine: a pickle of the flow and its codec, and the PCA."""

    flow_and_codec: bytes
    pca: ClasswisePCA


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
