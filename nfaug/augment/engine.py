"""What NFAugment computes with, kept out of the module tree, and the arithmetic of one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..flows.flow import Flow
from ..gaussians.gaussians import ClassGaussians
from ..pca.classwise import ClasswisePCA
from .params import NFAParams
from .pixels import Normalization, all_finite, resize

__all__ = ["INCONSISTENT", "OUTCOMES", "Engine", "Outcome"]

OUTCOMES = ("applied", "no_partner", "gated", "fell_back")
INCONSISTENT = "inconsistent"  # an outcome only where it is asked for

_HELD = ("_held", "_gaussians")  # what is copied to other devices
_SAME = 1e-2  # relative length: the memory is float16, and an accelerator may convolve in TF32


@dataclass(frozen=True)
class Outcome:
    """What became of the images that went through the flow, (n,) bool each, at most one true."""

    images: Tensor
    applied: Tensor
    no_partner: Tensor
    gated: Tensor
    fell_back: Tensor
    inconsistent: Tensor


class Engine:
    """A frozen flow and a classwise PCA, on every device that images arrive on.

    A plain object: a module that holds it has no parameters, buffers or sub-modules for it. It is
    never changed, so copies of that module share it. Pickling keeps one copy and leaves out those
    made for other devices.

    Raises:
        ValueError: there is no PCA, or it has another dimension than the flow.
    """

    def __init__(
        self,
        flow: Flow,
        pca: ClasswisePCA | None,
        class_names: Sequence[str] | None = None,
        gaussians: ClassGaussians | None = None,
    ) -> None:
        if pca is None:
            raise ValueError(
                "this checkpoint has no PCA axes, which NFA mixes along: fit it to your classes "
                "(nfaug fit --flow DIR --data D --out DIR, or nfaug.fit)"
            )
        if pca.dim != flow.config.dim:
            raise ValueError(
                f"the PCA has {pca.dim} dimensions, the flow {flow.config.dim}: they do not belong "
                "together"
            )
        names = tuple(class_names or ())
        if names and len(names) != pca.num_classes:
            raise ValueError(
                f"there are {len(names)} class names for a PCA of {pca.num_classes} classes"
            )
        self.config = flow.config
        self.codec = flow.codec
        self.class_names = names
        self.num_classes = pca.num_classes
        self.rank = pca.rank
        self.memory_rows = 0 if pca.memory is None else len(pca.memory)
        frozen = flow.freeze()
        self._home = frozen.device
        fits = gaussians is not None and gaussians.num_classes == pca.num_classes
        self._gaussians = {self._home: _moved(gaussians, self._home)} if fits else {}
        self._held: dict[torch.device, tuple[Flow, ClasswisePCA]] = {
            self._home: (frozen, _moved(pca, self._home))
        }

    @classmethod
    def of(cls, checkpoint: Any) -> Engine:
        """That of a checkpoint, of a pair (flow, pca), or the engine itself.

        Raises:
            ValueError: it is something else.
        """
        if isinstance(checkpoint, Engine):
            return checkpoint
        if isinstance(checkpoint, tuple) and len(checkpoint) == 2:
            return cls(*checkpoint)
        if not all(hasattr(checkpoint, name) for name in ("flow", "pca", "config")):
            raise ValueError(
                f"NFAugment takes a checkpoint (nfaug.load) or a pair (flow, pca); got "
                f"{type(checkpoint).__name__}. For a path or a Hub repository use "
                "NFAugment.from_pretrained"
            )
        return cls(
            checkpoint.flow,
            checkpoint.pca,
            checkpoint.config.class_names,
            getattr(checkpoint, "gaussians", None),
        )

    @property
    def has_memory(self) -> bool:
        """Whether there is a memory of partners."""
        return self.memory_rows > 0

    @property
    def classifies(self) -> bool:
        """Whether there are gaussians of the PCA's classes, so that latents can be classified."""
        return bool(self._gaussians)

    def classify(self, z: Tensor) -> Tensor:
        """The class under which each latent is most likely, (B,); needs `classifies`."""
        if z.device not in self._gaussians:
            self._gaussians[z.device] = _moved(self._gaussians[self._home], z.device)
        return self._gaussians[z.device].classify(z)

    def on(self, device: torch.device) -> tuple[Flow, ClasswisePCA]:
        """The flow and the PCA on a device; copied there at the first call."""
        if device not in self._held:
            flow, pca = self._held[self._home]
            self._held[device] = (_moved(flow, device), _moved(pca, device))
        return self._held[device]

    @property
    def device(self) -> torch.device:
        """Where the checkpoint lay; images may lie elsewhere."""
        return self._home

    def memory_range(self, label: int) -> tuple[int, int]:
        """Rows [start, end) of the memory that are of a class."""
        offsets = self._held[self._home][1].offsets
        return int(offsets[label]), int(offsets[label + 1])

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        usable: Tensor,
        params: NFAParams,
        normalization: Normalization,
        radius: float | None,
        *,
        consistent: bool = False,
    ) -> Outcome:
        """Encode, move towards the partners, decode: z' = z + U (w * (b - a)) + noise.

        `images` are those of `params.index`, (n, C, H, W), with finite pixels; `labels` are in
        range. Where `usable` is false the image stays, and is nobody's partner. `radius` is the
        gate's, None for no gate. Where `consistent`, an image stays whose new latent is most likely
        under another class.
        """
        flow, pca = self.on(images.device)
        levels, unit = self._levels(images, normalization)
        z = flow.encode(levels)[0]
        a = pca.project(z, labels)
        b, known = _partners(pca, a, labels, usable, params)
        paired = params.paired & usable & known & ~_same(a, b)
        moving = (params.chosen & paired)[:, None]
        delta = torch.where(moving, params.weights * (b - a), 0.0)
        moved = pca.add(z, labels, delta)
        changing = paired
        if params.noise.shape[1]:  # needs no partner
            changing = usable
            moved = moved + torch.where(
                (params.chosen & usable)[:, None], params.noise, 0.0
            ).view_as(z)
        decoded = flow.decode(moved, quantize=False)
        # What the codec itself changes is no part of the augmentation.
        base = levels / 255 if self.codec.exact else flow.decode(z, quantize=False)
        new = self._images(decoded, base, images, unit, normalization)
        # 8-bit images hide what they were made of.
        sane = all_finite(moved) & all_finite(new if new.is_floating_point() else decoded)
        inside = sane if radius is None else _in_range(pca, z, labels, a, a + delta, radius)
        same = self.classify(moved) == labels if consistent else torch.ones_like(sane)
        chosen = params.chosen
        applied = chosen & sane & changing & inside & same
        return Outcome(
            images=torch.where(applied[:, None, None, None], new, images),
            applied=applied,
            fell_back=chosen & ~sane,
            no_partner=chosen & sane & ~changing,
            gated=chosen & sane & changing & ~inside,
            inconsistent=chosen & sane & changing & inside & ~same,
        )

    def _levels(self, images: Tensor, normalization: Normalization) -> tuple[Tensor, Tensor]:
        """Grey levels at the flow's size, and the images in [0, 1]."""
        size = self.codec.image_size
        if images.dtype == torch.uint8:
            if tuple(images.shape[-2:]) == size and self.codec.exact:
                return images, images  # exact: never leaves the 8-bit grid
            unit = images.to(torch.float32) / 255
        else:
            unit = normalization.unit(images)
        return resize(unit, size).clamp(0, 1) * 255, unit

    def _images(
        self,
        decoded: Tensor,
        base: Tensor,
        images: Tensor,
        unit: Tensor,
        normalization: Normalization,
    ) -> Tensor:
        """Decoded images in the form that arrived.

        Detail above the flow's size, and what an autoencoder loses of an image, is kept: out =
        images + (decoded - base), `base` being what the unmixed latent decodes to.
        """
        height, width = images.shape[-2:]
        if (height, width) != self.codec.image_size or not self.codec.exact:
            decoded = (unit + resize(decoded - base, (height, width))).clamp(0, 1)
        if images.dtype == torch.uint8:
            return (decoded * 255).round().to(torch.uint8)
        return normalization.undo(decoded).to(images.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        home = self._home
        kept = {name: {k: v for k, v in self.__dict__[name].items() if k == home} for name in _HELD}
        return {**self.__dict__, **kept}


def _moved(module: Any, device: torch.device) -> Any:
    """The module itself where it lies on the device, else a copy: it may be somebody's."""
    if all(tensor.device == device for tensor in module.buffers()):
        return module
    return copy.deepcopy(module).to(device)


def _partners(
    pca: ClasswisePCA, a: Tensor, labels: Tensor, usable: Tensor, params: NFAParams
) -> tuple[Tensor, Tensor]:
    """Coefficients of the partners, and which of these can be used: those of the image's class.

    Who finds itself in the memory takes the other row that was drawn. A partner is of another class
    only where parameters are replayed with other labels than they were drawn for.
    """
    position = torch.where(params.from_memory, 0, params.partner)
    b, known = a[position], usable[position] & (labels[position] == labels)
    if pca.memory is None or pca.memory_labels is None:
        return b, known & ~params.from_memory
    row, spare = (torch.where(params.from_memory, x, 0) for x in (params.partner, params.other))
    first = pca.memory[row].float()
    stored = torch.where(_same(a, first)[:, None], pca.memory[spare].float(), first)
    own = (pca.memory_labels[row] == labels) & (pca.memory_labels[spare] == labels)
    known = torch.where(params.from_memory, own, known)
    return torch.where(params.from_memory[:, None], stored, b), known


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Whether coefficients are of the same image, so that mixing them would change nothing."""
    return (b - a).square().sum(1) <= _SAME**2 * a.square().sum(1)


def _in_range(
    pca: ClasswisePCA, z: Tensor, labels: Tensor, a: Tensor, moved: Tensor, radius: float
) -> Tensor:
    """Whether image and result both lie within the class's range; outside the span they agree."""
    distance, energy = pca.scores(z, labels, a)
    distance = torch.maximum(distance, pca.distance(moved, labels))
    return pca.in_range(distance, energy, labels, radius=radius)
