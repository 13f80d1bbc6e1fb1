"""Engine: the frozen flow and PCA of an NFAugment, and the arithmetic of one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classes.gaussians import ClassGaussians
from ..classes.pca import ClasswisePCA
from ..data.preprocess import round_levels
from ..flows.flow import Flow
from .params import NFAParams
from .pixels import Normalization, all_finite, resize
from .settings import MixSettings

__all__ = ["FAR", "Encoded", "Engine", "outcomes"]

_PER_DEVICE = ("_copies", "_gaussians")  # attributes with a copy for each device
# A flow maps images unlike its training images to large latents, where float32 loses digits. Of
# builtin:fashion-mnist, every image with an inexact round trip has max|z| >= 57, and its own images
# have less than about 10.
FAR = 32.0
_SELF_MATCH = 1e-2  # relative distance: the memory is float16, and convolutions may use TF32


def outcomes(settings: MixSettings) -> tuple[str, ...]:
    """Names of the outcomes of an image that is chosen for augmentation."""
    names = ("applied", "no_partner", "gated", "fell_back")
    return (*names, "inconsistent") if settings.keep == "consistent" else names


@dataclass(frozen=True)
class Encoded:
    """Images and what `Engine.mix` needs of them; several calls can share it.

    images (n, C, H, W), the same in [0, 1], labels (n,), latents z, PCA coefficients a (n, r), and
    bool masks (n,): `far` for max|z| > 32, `inside` for latents in their class's range. `base`
    holds the images at the flow's size, or the decoded latents where the round trip is inexact.
    """

    images: Tensor
    unit: Tensor
    labels: Tensor
    z: Tensor
    a: Tensor
    far: Tensor
    inside: Tensor
    base: Tensor

    def rows(self, index: Tensor) -> Encoded:
        """The images at these positions."""
        return Encoded(**{name: value[index] for name, value in vars(self).items()})


class Engine:
    """A frozen flow and a classwise PCA, with copies on every device that images arrive on.

    A plain object, so that a module that holds it gets no parameters, buffers or sub-modules. It
    is immutable, and copies of that module share it. A pickle leaves out copies for other devices.

    Raises:
        ValueError: There is no PCA, or its dimension or number of classes does not match.
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
                "this checkpoint has no PCA axes: fit it to your classes (nfaug fit --flow DIR "
                "--data D --out DIR, or nfaug.fit)"
            )
        if pca.dim != flow.config.dim:
            raise ValueError(
                f"the PCA has {pca.dim} dimensions and the flow {flow.config.dim}: they must come "
                "from one checkpoint"
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
        self.device = frozen.device
        matching = gaussians is not None and gaussians.num_classes == pca.num_classes
        self._gaussians = {self.device: _on_device(gaussians, self.device)} if matching else {}
        self._copies: dict[torch.device, tuple[Flow, ClasswisePCA]] = {
            self.device: (frozen, _on_device(pca, self.device))
        }
        self._double: Flow | None = None  # a copy for `_decode_far`, made when it is needed

    @classmethod
    def of(cls, checkpoint: Any) -> Engine:
        """The engine of a checkpoint, of its name or path, of a pair (flow, pca), or of itself.

        Raises:
            ValueError: The type is not supported.
        """
        if isinstance(checkpoint, (str, Path)):
            from ..checkpoint.checkpoint import load  # a flow in memory needs no reader

            checkpoint = load(checkpoint)
        if isinstance(checkpoint, Engine):
            return checkpoint
        if isinstance(checkpoint, tuple) and len(checkpoint) == 2:
            return cls(*checkpoint)
        if not all(hasattr(checkpoint, name) for name in ("flow", "pca", "config")):
            raise ValueError(
                "NFAugment takes a checkpoint, its name or directory, or a pair (flow, pca); got "
                f"{type(checkpoint).__name__}"
            )
        return cls(
            checkpoint.flow,
            checkpoint.pca,
            checkpoint.config.class_names,
            getattr(checkpoint, "gaussians", None),
        )

    def check_settings(self, settings: MixSettings) -> None:
        """Check that the checkpoint has what the settings need.

        Raises:
            ValueError: It has no memory, no class gaussians, or another number of classes.
        """
        if isinstance(settings.p, tuple) and len(settings.p) != self.num_classes:
            raise ValueError(
                f"p must be one number, or {self.num_classes} numbers, one for each class; got "
                f"{list(settings.p)}"
            )
        if settings.partners in ("memory", "both") and not self.has_memory:
            raise ValueError(
                f"partners={settings.partners!r} needs a partner memory and the checkpoint has "
                "none: fit it to your classes (nfaug fit), or use partners='batch'"
            )
        if settings.keep == "consistent" and not self._gaussians:
            raise ValueError(
                "keep='consistent' needs class gaussians and the checkpoint has none for these "
                "classes: fit it to them (nfaug fit), or use keep='all'"
            )

    def check_params(self, params: NFAParams, batch: int) -> None:
        """Check that draws match the batch size and this checkpoint. Reads no value.

        Draws from a memory may be replayed without one; those images have no partner.

        Raises:
            ValueError: The batch size, number of axes, dimension or memory differs.
        """
        axes, noise = params.weights.shape[1], params.noise.shape[1]
        for what, drawn, here, matches in (
            ("images in the batch", params.batch, batch, params.batch == batch),
            ("axes", axes, self.rank, axes in (1, self.rank)),
            ("latent dimensions", noise, self.config.dim, noise in (0, self.config.dim)),
            (
                "rows of memory", params.memory, self.memory_rows,
                not params.memory or self.memory_rows in (0, params.memory),
            ),
        ):  # fmt: skip
            if not matches:
                raise ValueError(
                    f"params were drawn for {drawn} {what}; got {here}. Replay params with the "
                    "same batch size and checkpoint, or draw new ones (make_params)"
                )

    @property
    def has_memory(self) -> bool:
        """Whether the checkpoint has a partner memory."""
        return self.memory_rows > 0

    def on(self, device: torch.device) -> tuple[Flow, ClasswisePCA]:
        """The flow and the PCA on a device, copied there by the first call."""
        if device not in self._copies:
            flow, pca = self._copies[self.device]
            self._copies[device] = (_on_device(flow, device), _on_device(pca, device))
        return self._copies[device]

    def _classify(self, z: Tensor) -> Tensor:
        """The most likely class of each latent, (B,)."""
        if z.device not in self._gaussians:
            self._gaussians[z.device] = _on_device(self._gaussians[self.device], z.device)
        return self._gaussians[z.device].classify(z)

    def encode(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalization,
        settings: MixSettings,
        needed: Tensor | None = None,
        changing: Tensor | None = None,
    ) -> Encoded:
        """Encode images once, for one or more calls of `mix`.

        Args:
            images: (n, C, H, W) images with finite pixels.
            labels: (n,) class indices in range.
            normalization: Normalization of `images`.
            settings: `gate` is read.
            needed: (n,) bool, images that change or are partners; None for all. The CPU skips the
                others. An accelerator, which would synchronize to count them, encodes all.
            changing: (n,) bool, images that change; None for those needed. The CPU decodes the
                unmixed latents of these alone, where the codec is not exact.
        """
        flow, pca = self.on(images.device)
        selects = _selects_rows(images.device)
        levels, unit = self._levels(images, normalization)
        if selects and needed is not None and not bool(needed.all()):
            shape = (len(images), *self.config.shape)
            z = torch.zeros(shape, dtype=flow.dtype, device=images.device)
            z[needed] = flow.encode(levels[needed])[0]
        else:
            z = flow.encode(levels)[0]
        a = pca.project(z, labels)
        far = inside = torch.ones_like(labels, dtype=torch.bool)
        if settings.gate is not None:
            inside = pca.gate(z, labels, a, radius=settings.gate)
        changing = needed if changing is None else changing
        wanted = inside if changing is None else inside & changing
        base = levels / 255
        if self.codec.exact:
            far = z.abs().flatten(1).amax(1) > FAR
            if selects and bool((rows := far & wanted).any()):
                base[rows] = self._decode_far(z[rows])
        else:
            far = torch.zeros_like(far)
            which: Any = wanted if selects else slice(None)
            base[which] = flow.decode(z[which], quantize=False)
        return Encoded(images, unit, labels, z, a, far, inside, base)

    def mix(
        self,
        encoded: Encoded,
        usable: Tensor,
        params: NFAParams,
        normalization: Normalization,
        settings: MixSettings,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Move towards the partners and decode: z' = z + U (w * (b - a)) + noise.

        8-bit images of the flow's size become decode(z'). For all others, and where the round trip
        is inexact, the change is added: x + decode(z') - decode(z). For far images the CPU decodes
        in float64. An accelerator, which would synchronize to find them, leaves them as they are.

        Args:
            encoded: Images of `params.index`.
            usable: (n,) bool; other images are not augmented and are not partners.
            params: Draws.
            normalization: Normalization of the images.
            settings: `gate` and `keep` are read here; the others went into `params`.

        Returns:
            Images (n, C, H, W), and a bool mask (n,) for each outcome. An image has at most one of
            them. `corrected` is a part of `applied`: far images without their round-trip error.
        """
        images, labels, z, a = encoded.images, encoded.labels, encoded.z, encoded.a
        flow, pca = self.on(images.device)
        selects = _selects_rows(images.device)
        b, same_class = _partners(pca, a, labels, usable, params)
        changing = params.paired & usable & same_class & ~_self_match(a, b)
        moving = (params.chosen & changing)[:, None]
        delta = torch.where(moving, params.weights * (b - a), 0.0)
        moved = pca.add(z, labels, delta)
        if params.noise.shape[1]:
            changing = usable  # noise needs no partner
            moved = moved + torch.where(
                (params.chosen & usable)[:, None], params.noise, 0.0
            ).view_as(z)
        finite = all_finite(moved)
        inside = consistent = torch.ones_like(finite)
        if settings.gate is not None:  # the energy outside the span does not change
            bound = settings.gate**2 * pca.gate_distance[labels]
            inside = encoded.inside & (pca.distance(a + delta, labels) <= bound)
        if settings.keep == "consistent":
            consistent = self._classify(moved) == labels
        decoding = params.chosen & finite & changing & inside & consistent
        far = encoded.far
        finite = finite & ~(decoding & far) if not selects else finite
        rows: Any = decoding if selects else slice(None)
        decoded = flow.decode(moved[rows], quantize=False)
        if selects and bool((distant := far[rows]).any()):
            decoded[distant] = self._decode_far(moved[rows][distant])
        new = self._images(decoded, encoded, rows, normalization)
        # Conversion to 8 bits would hide NaN.
        finite[rows] &= all_finite(new if new.is_floating_point() else decoded)
        result = images.clone()
        result[rows] = new
        chosen, applied = params.chosen, decoding & finite
        outcome = {
            "applied": applied,
            "no_partner": chosen & finite & ~changing,
            "gated": chosen & finite & changing & ~inside,
            "fell_back": chosen & ~finite,
            "inconsistent": chosen & finite & changing & inside & ~consistent,
            "corrected": applied & far,
        }
        return torch.where(applied[:, None, None, None], result, images), outcome

    def _decode_far(self, z: Tensor) -> Tensor:
        """Decode latents that are too large for float32, in float64 on the CPU."""
        if self._double is None:
            self._double = copy.deepcopy(self.on(z.device)[0]).double()
        return self._double.decode(z, quantize=False).float()

    def _levels(self, images: Tensor, normalization: Normalization) -> tuple[Tensor, Tensor]:
        """Images in [0, 255] at the flow's size, and in [0, 1] at their own."""
        size = self.codec.image_size
        if images.dtype == torch.uint8:
            unit = images.to(torch.float32) / 255
            if tuple(images.shape[-2:]) == size and self.codec.exact:
                return images, unit  # stay on the 8-bit grid
        else:
            unit = normalization.unit(images)
        levels = resize(unit, size).clamp(0, 1) * 255
        if self.codec.exact:
            # Flows amplify changes below a grey level a hundredfold. The class statistics, axes and
            # gate are those of 8-bit images.
            levels = round_levels(levels)
        return levels, unit

    def _images(
        self, decoded: Tensor, encoded: Encoded, rows: Any, normalization: Normalization
    ) -> Tensor:
        """Decoded images in the type, range and size of the images at `rows`."""
        images, unit = encoded.images[rows], encoded.unit[rows]
        height, width = images.shape[-2:]
        size = (height, width)
        changed = (unit + resize(decoded - encoded.base[rows], size)).clamp(0, 1)
        exact = images.dtype == torch.uint8 and self.codec.exact
        if exact and size == self.codec.image_size:
            changed = torch.where(encoded.far[rows, None, None, None], changed, decoded)
        if images.dtype == torch.uint8:
            return (changed * 255).round().to(torch.uint8)
        return normalization.undo(changed).to(images.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def __getstate__(self) -> dict[str, Any]:
        def home_only(held: dict[torch.device, Any]) -> dict[torch.device, Any]:
            return {device: x for device, x in held.items() if device == self.device}

        held = {name: home_only(getattr(self, name)) for name in _PER_DEVICE}
        return {**self.__dict__, **held, "_double": None}


def _selects_rows(device: torch.device) -> bool:
    """Whether single images of a batch may be selected by their values: elsewhere this waits."""
    return device.type == "cpu"


def _on_device(module: Any, device: torch.device) -> Any:
    """A copy of the module on the device; it shares tensors that are there already.

    Moving the original later does not move the copy.
    """
    if all(tensor.device == device for tensor in module.buffers()):
        held = copy.copy(module)
        held._buffers = dict(module._buffers)
        return held
    return copy.deepcopy(module).to(device)


def _partners(
    pca: ClasswisePCA, a: Tensor, labels: Tensor, usable: Tensor, params: NFAParams
) -> tuple[Tensor, Tensor]:
    """Coefficients of the partners, and whether a partner is usable and of the image's class.

    Self-matches in the memory use the fallback row. A partner can be of another class only if
    draws are replayed with other labels.
    """
    position = torch.where(params.from_memory, 0, params.partner)
    b, valid = a[position], usable[position] & (labels[position] == labels)
    if pca.memory is None or pca.memory_labels is None:
        return b, valid & ~params.from_memory
    row, fallback = (
        torch.where(params.from_memory, x, 0) for x in (params.partner, params.fallback)
    )
    first = pca.memory[row].float()
    stored = torch.where(_self_match(a, first)[:, None], pca.memory[fallback].float(), first)
    same_class = (pca.memory_labels[row] == labels) & (pca.memory_labels[fallback] == labels)
    valid = torch.where(params.from_memory, same_class, valid)
    return torch.where(params.from_memory[:, None], stored, b), valid


def _self_match(a: Tensor, b: Tensor) -> Tensor:
    """Whether coefficients are those of the same image, within 1%."""
    return (b - a).square().sum(1) <= _SELF_MATCH**2 * a.square().sum(1)
