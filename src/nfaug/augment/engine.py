"""Engine: the frozen flow and PCA of an NFAugment, and the arithmetic of one batch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..data.preprocess import resize_levels, round_levels
from ..flows.flow import Flow
from ..run.device import is_read_at_once
from .counters import Outcome
from .detail import add_change
from .draws import Draws
from .graphs import CudaGraphs
from .mixing import Batch, Encoded, find_partners, mix_axes, mix_regions, rows_where
from .pixels import Normalization, all_finite, as_unit, resize
from .regions import mix_by_region

# A flow maps images unlike its training images to large latents, where float32 loses digits. Of
# builtin:fashion-mnist, every image with an inexact round trip has max|z| >= 57, and its own images
# have less than about 10.
FAR = 32.0
_IN_CACHE = 2**18  # values of pixels that the CPU computes with at a time: 1 MiB
_ALL = 2**31  # images that the layers of a flow compute with at a time


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
        self._part = max(1, _IN_CACHE // flow.config.dim) if frozen.shape_free else _ALL
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
            raise TypeError(f"checkpoint must be {wanted}; got {type(checkpoint).__name__}")
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
        flow, pca = self.on(batch.images.device)
        labels = batch.labels[index]
        parts = self._parts(torch.arange(len(index), device=index.device))
        levels = torch.cat(
            [self._levels(batch.images[index[rows]], normalization) for rows in parts]
        )
        z = levels.new_empty(len(index), *flow.shape, dtype=flow.dtype)
        for rows in parts:
            z[rows] = self._call("encode", flow.latents, levels[rows])
        a, energy = pca.locate(z, labels)
        inside = torch.ones_like(labels, dtype=torch.bool)
        if gate is not None:
            inside = pca.is_inside(a, energy, labels, gate)
        if self.codec.exact:
            near = z.flatten(1).amax(1).maximum(-z.flatten(1).amin(1)) <= FAR
            low = levels
            base = levels
        else:
            near = torch.ones_like(inside)
            low = levels / 255
            base = low.clone()
            rows = rows_where(inside if chosen is None else inside & chosen)
            base[rows] = self._call("decode", self._decode_unit, z[rows])
        return Encoded(z, a, labels, batch.ok[index], inside, near, low, base)

    def mix(self, encoded: Encoded, draws: Draws, gate: float | None) -> tuple[Encoded, Tensor]:
        """Mix latents with those of their partners, and add noise.

        Args:
            encoded: The latents, in the order of `draws.index`.
            draws: The draws.
            gate: Radius of the class's range; None for no gate.

        Returns:
            The latents of the variants with what these are to be compared with, and the code of
            each image's `Outcome`, (n,). `decode` may still change APPLIED to FELL_BACK.
        """
        _, pca = self.on(encoded.z.device)
        b, paired = find_partners(encoded, draws, pca)
        moved = draws.chosen & paired
        inside = encoded.inside
        base = encoded.base
        if draws.mix == "regions":
            z, masks = mix_regions(encoded, b, moved, draws, pca)
            if gate is not None:
                inside = inside & pca.gate(z, encoded.labels, radius=gate)
            if not self.codec.exact:  # the detail that it loses goes where the image goes
                base = mix_by_region(base, encoded.low, masks)
        else:
            # A move along the axes does not change the energy outside their span.
            z, a = mix_axes(encoded, b, moved, draws, pca)
            if gate is not None:
                inside = inside & pca.is_near(a, encoded.labels, gate)
        changes = paired
        if draws.noise.shape[1]:  # which needs no partner
            changes = encoded.ok
            noisy = (draws.chosen & changes)[:, None]
            z = z + torch.where(noisy, draws.noise, 0.0).view_as(z)
        outcome = torch.full_like(encoded.labels, Outcome.APPLIED.value)
        ladder = (  # the first that does not hold decides
            (encoded.ok, Outcome.NOT_FINITE),
            (draws.chosen, Outcome.UNCHOSEN),
            (all_finite(z), Outcome.FELL_BACK),
            (changes, Outcome.NO_PARTNER),
            (inside, Outcome.GATED),
            (encoded.near, Outcome.FAR),
        )
        for holds, otherwise in reversed(ladder):
            outcome = torch.where(holds, outcome, otherwise.value)
        return encoded._replace(z=z, base=base), outcome

    def decode(
        self,
        mixed: Encoded,
        outcome: Tensor,
        images: Tensor,
        index: Tensor,
        normalization: Normalization,
    ) -> None:
        """Decode the variants that are applied, and write them over their images.

        8-bit images of the flow's size become decode(z'). To all others, and where the round trip
        is not exact, the change decode(z') - base is added (`add_change`).

        Args:
            mixed: The latents of the variants.
            outcome: (n,) codes, as `mix` returns them; FELL_BACK is written into it for variants
                that are not finite.
            images: (B, C, H, W) images of the batch.
            index: (n,) positions of the variants in it.
            normalization: Normalization of the images.
        """
        replaced = self._is_replaced(images)
        for rows in self._parts(rows_where(outcome == Outcome.APPLIED)):
            old = images[index[rows]]
            new = self._call("decode", self._decode_unit, mixed.z[rows])
            if not replaced:
                base = as_unit(mixed.base[rows])
                low = base if self.codec.exact else mixed.low[rows]
                new = add_change(normalization.unit(old), new.sub_(base), low)
            finite = all_finite(new)  # conversion to 8 bits would hide NaN
            if old.dtype == torch.uint8:
                new = new.mul_(255).round_()
            else:
                new = normalization.undo(new)
            new = new.to(old.dtype)
            finite = finite & all_finite(new)
            codes = outcome[rows]
            applied = codes == Outcome.APPLIED
            kept = finite & applied
            if not is_read_at_once(old.device) or not bool(kept.all()):
                new = torch.where(kept[:, None, None, None], new, old)
                codes = torch.where(applied & ~finite, Outcome.FELL_BACK.value, codes)
                outcome.index_copy_(0, rows, codes)
            images.index_copy_(0, index[rows], new)

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Positions of images in parts, so that a part of pixels stays in the CPU's cache."""
        if is_read_at_once(rows.device):
            return rows.split(self._part)
        return (rows,)

    def _decode_unit(self, z: Tensor) -> Tensor:
        return self.on(z.device)[0].decode(z, quantize=False)

    def _call(self, name: str, function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        if self.graphs is None:
            return function(given)
        return self.graphs.call(name, function, given)

    def _is_replaced(self, images: Tensor) -> bool:
        """Whether variants are the decoded latents alone, without a change that is added."""
        fits = images.dtype == torch.uint8 and tuple(images.shape[-2:]) == self.codec.image_size
        return fits and self.codec.exact

    def _levels(self, images: Tensor, normalization: Normalization) -> Tensor:
        """Grey levels at the flow's size, uint8 if its round trip is exact."""
        if self._is_replaced(images):
            return images
        size = self.codec.image_size
        if not self.codec.exact:
            levels = resize(normalization.unit(images), size)
            return levels.clamp(0, 1).nan_to_num_(0.0).mul_(255)  # of images that stay unchanged
        # Flows amplify changes below a grey level a hundredfold. The class statistics, axes and
        # gate are those of 8-bit images, which were resized as such.
        if images.dtype != torch.uint8:
            levels = normalization.unit(images).clamp(0, 1).nan_to_num_(0.0).mul_(255)
            images = round_levels(levels).to(torch.uint8)
        return resize_levels(images, size)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        home = self._copies[self.device]
        state: dict[str, Any] = {**self.__dict__, "_copies": {self.device: home}}
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


def _on_device(module: Any, device: torch.device) -> Any:
    """A copy of a module that shares the tensors that are on the device already.

    Moving the original later does not move the copy.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in module.buffers()}).to(device)
