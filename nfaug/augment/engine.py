"""Engine: the frozen flow and PCA of an NFAugment, and the arithmetic of one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..data.preprocess import round_levels
from ..flows.flow import Flow
from .counters import Outcome
from .params import NFAParams
from .pixels import Normalization, all_finite, resize
from .regions import mix_by_region

__all__ = ["Encoded", "Engine"]

# A flow maps images unlike its training images to large latents, where float32 loses digits. Of
# builtin:fashion-mnist, every image with an inexact round trip has max|z| >= 57, and its own images
# have less than about 10.
_FAR = 32.0
_SELF_MATCH = 1e-2  # relative distance: the memory is float16, and convolutions may use TF32


@dataclass(frozen=True)
class Encoded:
    """Images and what `Engine.mix` needs of them; several calls can share it.

    images (n, C, H, W), labels (n,), latents z, PCA coefficients a (n, r), and bool masks (n,):
    `usable` for images with a label and finite pixels, `far` for max|z| > 32, `inside` for latents
    in their class's range. `base` holds the images at the flow's size, or the decoded latents where
    the round trip is inexact.
    """

    images: Tensor
    labels: Tensor
    usable: Tensor
    z: Tensor
    a: Tensor
    far: Tensor
    inside: Tensor
    base: Tensor
    normalization: Normalization
    gate: float | None

    def rows(self, index: Tensor) -> Encoded:
        """The images at these positions."""
        own: Any = [x[index] if isinstance(x, Tensor) else x for x in vars(self).values()]
        return Encoded(*own)


class Engine:
    """A frozen flow and a classwise PCA, with copies on every device that images arrive on.

    A plain object, so that a module that holds it gets no parameters, buffers or sub-modules. It
    is immutable, and copies of that module share it. A pickle leaves out copies for other devices.
    """

    def __init__(
        self, flow: Flow, pca: ClasswisePCA | None, class_names: Sequence[str] = ()
    ) -> None:
        if pca is None or pca.dim != flow.config.dim:
            raise ValueError(
                f"the flow needs PCA axes of {flow.config.dim} dimensions: fit it to your classes "
                f"(nfaug fit, or nfaug.fit); got {pca}"
            )
        self.config = flow.config
        self.codec = flow.codec
        self.class_names = tuple(class_names)
        self.num_classes = pca.num_classes
        self.rank = pca.rank
        self.has_memory = pca.has_memory
        frozen = flow.freeze()
        self.device = frozen.device
        self._copies: dict[torch.device, tuple[Flow, ClasswisePCA]] = {
            self.device: (frozen, _on_device(pca, self.device))
        }
        self._double: Flow | None = None  # a copy for `_decode_far`, made when it is needed

    @classmethod
    def of(cls, checkpoint: Any) -> Engine:
        """The engine of a checkpoint, of its name or path, of a pair (flow, pca), or of itself."""
        if isinstance(checkpoint, (str, Path)):
            from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

            checkpoint = load(checkpoint)
        if isinstance(checkpoint, Engine):
            return checkpoint
        if isinstance(checkpoint, tuple) and len(checkpoint) == 2:
            return cls(*checkpoint)
        if not hasattr(checkpoint, "pca"):
            wanted = "a Checkpoint, its name or path, or a pair (flow, pca)"
            raise TypeError(f"checkpoint must be {wanted}; got {type(checkpoint).__name__}")
        return cls(checkpoint.flow, checkpoint.pca, checkpoint.config.class_names or ())

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
        images: Tensor,
        labels: Tensor,
        usable: Tensor,
        normalization: Normalization,
        gate: float | None,
        params: NFAParams | None = None,
    ) -> Encoded:
        """Encode images once, for one or more calls of `mix`.

        Args:
            images: (n, C, H, W) images with finite pixels.
            labels: (n,) class indices in range.
            usable: (n,) bool; other images are not augmented and are not partners.
            normalization: Normalization of `images`.
            gate: Radius of the class's range; None for no gate.
            params: Draws of `mix`, if it is one call. The CPU then decodes for chosen images alone.
        """
        flow, pca = self.on(images.device)
        levels = self._levels(images, normalization)
        z = flow.encode(levels)[0]
        a = pca.project(z, labels)
        inside = torch.ones_like(labels, dtype=torch.bool)
        if gate is not None:
            inside = pca.gate(z, labels, a, radius=gate)
        far = z.abs().flatten(1).amax(1) > (_FAR if self.codec.exact else torch.inf)
        wanted = inside if params is None else inside & params.chosen
        base = self._base(levels, z, far, wanted)
        return Encoded(images, labels, usable, z, a, far, inside, base, normalization, gate)

    def mix(self, encoded: Encoded, params: NFAParams) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) under these draws, and the code (n,) of each one's `Outcome`.

        The CPU decodes far images in float64. An accelerator, which would synchronize to find them,
        leaves them as they are.
        """
        z, base, inside, changing = self._move(encoded, params)
        far = Outcome.CORRECTED if _selects_rows(z.device) else Outcome.FELL_BACK
        outcome = torch.where(encoded.far, far.value, Outcome.APPLIED.value)
        for passed, otherwise in (
            (inside, Outcome.GATED),
            (changing, Outcome.NO_PARTNER),
            (all_finite(z), Outcome.FELL_BACK),
            (params.chosen, Outcome.UNCHOSEN),
        ):
            outcome = torch.where(passed, outcome, otherwise.value)
        return self._decode(encoded, z, base, outcome)

    def _move(self, encoded: Encoded, params: NFAParams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents z' = z + U (w * (b - a)) + noise; by region, z + w * (z2 - z) + noise.

        There z2 is a latent of the batch, or m + U b with b from the memory. Also returned are
        `base`, which decode(z') is compared with, and bool masks (n,): whether latents lie in their
        class's range before and after the move, without the noise, and whether images may change:
        those with a partner, or all with noise. A move along the axes does not change the energy
        outside their span.
        """
        _, pca = self.on(encoded.z.device)
        z, a, labels, gate = encoded.z, encoded.a, encoded.labels, encoded.gate
        inside, base = encoded.inside, encoded.base
        b, paired = _partners(pca, encoded, params)
        changing = encoded.usable & paired & ~_self_match(a, b)
        mixed = (params.chosen & changing)[:, None]
        if params.weights.ndim == 3:
            places = mixed[:, :, None, None]
            position = torch.where(params.from_memory, 0, params.partner)
            known = pca.add(pca.mean[labels].view_as(z), labels, b)
            z2 = torch.where(params.from_memory[:, None, None, None], known, z[position])
            z = mix_by_region(z, torch.where(places, z2, z), params.weights)
            if not self.codec.exact:  # the detail that it loses goes where the image goes
                seen = self._levels(encoded.images, encoded.normalization) / 255
                base = mix_by_region(base, torch.where(places, seen, base), params.weights)
            if gate is not None:
                inside = inside & pca.gate(z, labels, radius=gate)
        else:
            delta = torch.where(mixed, params.weights * (b - a), 0.0)
            z = pca.add(z, labels, delta)
            if gate is not None:
                limit = gate**2 * pca.gate_distance[labels]
                inside = inside & (pca.distance(a + delta, labels) <= limit)
        if params.noise.shape[1]:
            changing = encoded.usable
            noisy = (params.chosen & changing)[:, None]
            z = z + torch.where(noisy, params.noise, 0.0).view_as(z)
        return z, base, inside, changing

    def _decode(
        self, encoded: Encoded, z: Tensor, base: Tensor, outcome: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images of the latents that are applied, all others as they are, and the final outcomes.

        8-bit images of the flow's size become decode(z'). For all others, and where the round trip
        is inexact, the change is added: x + decode(z') - decode(z).
        """
        selects = _selects_rows(z.device)
        rows: Any = _is_applied(outcome) if selects else slice(None)
        old, codes, far = encoded.images[rows], outcome[rows], encoded.far[rows]
        decoded = self.on(z.device)[0].decode(z[rows], quantize=False)
        if selects and bool(far.any()):
            decoded[far] = self._decode_far(z[rows][far])
        change = resize(decoded - base[rows], (old.shape[-2], old.shape[-1]))
        new = (encoded.normalization.unit(old) + change).clamp(0, 1)
        eight_bit = old.dtype == torch.uint8
        if eight_bit and self.codec.exact and new.shape == decoded.shape:
            new = torch.where(far[:, None, None, None], new, decoded)
        finite = all_finite(new)  # conversion to 8 bits would hide NaN
        new = (new * 255).round() if eight_bit else encoded.normalization.undo(new)
        new = new.to(old.dtype)
        kept = _is_applied(codes) & finite & all_finite(new)
        images, outcome = encoded.images.clone(), outcome.clone()
        images[rows] = torch.where(kept[:, None, None, None], new, old)
        outcome[rows] = torch.where(_is_applied(codes) & ~kept, Outcome.FELL_BACK.value, codes)
        return images, outcome

    def _levels(self, images: Tensor, normalization: Normalization) -> Tensor:
        """Images in [0, 255] at the flow's size."""
        size = self.codec.image_size
        if images.dtype == torch.uint8 and tuple(images.shape[-2:]) == size and self.codec.exact:
            return images
        levels = resize(normalization.unit(images), size).clamp(0, 1) * 255
        # Flows amplify changes below a grey level a hundredfold. The class statistics, axes and
        # gate are those of 8-bit images.
        return round_levels(levels) if self.codec.exact else levels

    def _base(self, levels: Tensor, z: Tensor, far: Tensor, wanted: Tensor) -> Tensor:
        """What decode(z) gives in [0, 1]; the CPU decodes for the `wanted` images alone."""
        selects, base = _selects_rows(z.device), levels / 255
        if not self.codec.exact:
            rows: Any = wanted if selects else slice(None)
            base[rows] = self.on(z.device)[0].decode(z[rows], quantize=False)
        elif selects and bool((rows := far & wanted).any()):
            base[rows] = self._decode_far(z[rows])
        return base

    def _decode_far(self, z: Tensor) -> Tensor:
        """Decode latents that are too large for float32, in float64 on the CPU."""
        if self._double is None:
            self._double = copy.deepcopy(self.on(z.device)[0]).double()
        return self._double.decode(z, quantize=False).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        home = {self.device: self._copies[self.device]}
        return {**self.__dict__, "_copies": home, "_double": None}


def _selects_rows(device: torch.device) -> bool:
    """Whether single images of a batch may be selected by their values: elsewhere this waits."""
    return device.type == "cpu"


def _on_device(module: Any, device: torch.device) -> Any:
    """A copy of a module that shares the tensors that are on the device already.

    Moving the original later does not move the copy.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in module.buffers()}).to(device)


def _is_applied(outcome: Tensor) -> Tensor:
    return (outcome == Outcome.APPLIED) | (outcome == Outcome.CORRECTED)


def _partners(pca: ClasswisePCA, encoded: Encoded, params: NFAParams) -> tuple[Tensor, Tensor]:
    """Coefficients of the partners, and whether there is a usable one of the image's class.

    Self-matches in the memory use the fallback row. A partner can be of another class only if
    draws are replayed with other labels.
    """
    a, labels, stored = encoded.a, encoded.labels, params.from_memory
    position = torch.where(stored, 0, params.partner)
    b, valid = a[position], encoded.usable[position] & (labels[position] == labels)
    if pca.memory is None or pca.memory_labels is None:
        return b, params.paired & valid & ~stored
    row, fallback = (torch.where(stored, x, 0) for x in (params.partner, params.fallback))
    first = pca.memory[row].float()
    other = torch.where(_self_match(a, first)[:, None], pca.memory[fallback].float(), first)
    same_class = (pca.memory_labels[row] == labels) & (pca.memory_labels[fallback] == labels)
    valid = params.paired & torch.where(stored, same_class, valid)
    return torch.where(stored[:, None], other, b), valid


def _self_match(a: Tensor, b: Tensor) -> Tensor:
    """Whether coefficients are those of the same image, within 1%."""
    return (b - a).square().sum(1) <= _SELF_MATCH**2 * a.square().sum(1)
