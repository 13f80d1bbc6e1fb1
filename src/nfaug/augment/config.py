"""MixConfig: everything that decides what NFA does to an image, and the draws that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..io.device import to_device
from ..io.numbers import check_number, check_whole
from ..io.text import did_you_mean
from .params import NFAParams, own_seed, pick_in_batch, pick_in_memory
from .regions import draw_masks

__all__ = ["Mix", "MixConfig", "Partners", "check_given_once"]

Mix = Literal["axis", "pair", "regions"]
Partners = Literal["auto", "batch", "memory"]

_GATE = 1.25


@dataclass(frozen=True)
class MixConfig:
    """What NFA does to an image.

    `NFAugment`, banks, previews, the adapters and the command line all take these settings. A new
    one is a field, a line under `Args`, a check and its use in `draw` here, and a keyword of
    `NFAugment`.

    Example:
        >>> from nfaug import MixConfig
        >>> config = MixConfig(strength=1.0, gate=False)
        >>> config.strength, config.gate
        (1.0, None)

    Args:
        p: Probability that an image is replaced by a variant, in [0, 1]: one number, or one for
            each class, such as [0.2, 0.8]. The largest of them decides the cost.
        alpha: Parameter of Beta(alpha, alpha), the distribution of the mixing weights.
        mix: Mixing weights: one for each axis ("axis"), one for each image ("pair"), or one for
            each position ("regions"): a smooth mask of about 4 x 4 regions, which takes half of the
            image from the partner, and more with a `strength` above 1.
        partners: Source of partners: other images of the batch ("batch"), the memory of the
            checkpoint ("memory"), or the memory if the checkpoint has one, else the batch ("auto").
            Partners from the memory are exact in classes of at most `rank` + 1 images, and blurred
            in larger ones. With mix "regions", "auto" therefore prefers the batch for larger
            classes.
        strength: How far a variant moves towards its partner: the factor s of the mixing weights,
            0 for noise alone. With alpha 1, a class keeps 1 - s + 2 s^2 / 3 of its variance along
            an axis: all of it at 1.5, two thirds at 1. With mix "regions", a strength above 1 makes
            the partner's regions larger.
        noise: Standard deviation of Gaussian noise on latents, in which class Gaussians have a
            standard deviation of 0.3 to 1. Noise needs no partner, and the gate ignores it.
        axes: How many of a class's axes to mix along, the largest first; None for all, which mix
            "regions" needs.
        gate: How far from its class an image or its variant may lie before the image stays
            unchanged. 1.0 is the limit found at fitting, the 99% quantile of held-out images; True
            is 1.25; False or None is no limit. In classes of 5 to 10 images, 1.25 leaves about one
            image in six unchanged, and 1.0 half of them.

    Raises:
        ValueError: A setting is out of range.
    """

    p: float | tuple[float, ...] = 0.5
    alpha: float = 1.0
    mix: Mix = "axis"
    partners: Partners = "auto"
    strength: float = 1.5
    noise: float = 0.0
    axes: int | None = None
    gate: bool | float | None = _GATE

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "p": _check_share(self.p),
            "alpha": check_number("alpha", self.alpha, 0, math.inf, open_low=True),
            "strength": check_number("strength", self.strength, 0, math.inf),
            "noise": check_number("noise", self.noise, 0, math.inf),
            "gate": _check_gate(self.gate),
        }
        if self.axes is not None:
            checked["axes"] = check_whole("axes", self.axes)
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                choices = get_args(hint)
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {value!r}"
                    f"{did_you_mean(str(value), choices)}"
                )
        if self.axes is not None and self.mix == "regions":
            raise ValueError(f'axes must be None with mix="regions"; got {self.axes}')
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def needs_batch(self, *, has_memory: bool) -> bool:
        """Whether some partners are other images of the batch.

        Args:
            has_memory: Whether the checkpoint has a memory.

        Returns:
            True if a batch of one image would find no partner in it.

        Example:
            >>> config.needs_batch(has_memory=True), config.needs_batch(has_memory=False)
            (False, True)
        """
        alone = ("memory",) if self.mix == "regions" else ("auto", "memory")
        return not (has_memory and self.partners in alone)

    def draw(
        self,
        labels: Tensor,
        usable: Tensor,
        pca: ClasswisePCA,
        generator: torch.Generator | None = None,
    ) -> NFAParams:
        """Draw images, partners, weights and noise for a batch.

        The CPU draws, so that a seed gives the same on every device. No value is read back from an
        accelerator.

        Args:
            labels: (B,), int64 in range.
            usable: (B,) bool: which images may be partners.
            pca: The axes and the memory of the classes.
            generator: Source of the seed (see `own_seed`); it does not change if no image is
                augmented.

        Returns:
            The draws, on the device of the labels.

        Example:
            >>> import nfaug
            >>> pca = nfaug.load("builtin:rgb32").pca
            >>> labels = torch.tensor([3, 3, 5, 5])
            >>> len(config.draw(labels, torch.ones(4, dtype=torch.bool), pca).index)
            2
        """
        batch, device, rank = len(labels), labels.device, pca.rank
        most = max(self.p) if isinstance(self.p, tuple) else self.p
        count = min(batch, math.ceil(most * batch - 1e-6))  # of 64.000001 images, 64
        rng = np.random.default_rng(own_seed(generator) if count else 0)

        order = rng.permutation(batch)[:count]
        # A second row was once used; without it a seed would draw other numbers after this.
        coins = rng.random((2, count), np.float32)[0]
        integers = rng.integers(2**31, size=(2, count))
        if self.mix == "regions":
            drawn = draw_masks(rng, count, alpha=self.alpha, strength=self.strength)
        else:
            width = 1 if self.mix == "pair" else rank
            drawn = rng.beta(self.alpha, self.alpha, (count, width)).astype(np.float32)
            drawn *= np.float32(self.strength)
        shares = self.p if isinstance(self.p, tuple) else ()
        # Two uploads, since an accelerator spends as much time on a small one as on a large one.
        index, number, second = _placed([order, *integers], np.int64, device)
        coin, weights, by_class = _placed([coins, drawn, shares], np.float32, device)
        if self.axes is not None:
            unused = torch.arange(rank, device=device) >= self.axes
            weights = weights.expand(-1, rank).masked_fill(unused, 0.0)
        noise = torch.empty(count, 0, device=device)
        if self.noise:
            normal = rng.standard_normal((count, pca.dim), np.float32)
            noise = self.noise * to_device(torch.from_numpy(normal), device)
        own = labels[index]
        share = by_class[own] if isinstance(self.p, tuple) else self.p
        # `count` is rounded up; choosing with probability p * B / count makes the share exactly p.
        chosen = coin * count < share * batch
        partner, paired = pick_in_batch(number, own, usable[index])
        memory = 0
        if pca.memory is None or self.partners == "batch":
            from_memory, fallback = torch.zeros_like(paired), torch.zeros_like(partner)
        else:
            memory = len(pca.memory)
            row, fallback, stored = pick_in_memory(number, second, own, pca.offsets)
            from_memory = stored
            if self.partners == "auto" and self.mix == "regions":
                whole = pca.counts[own] <= rank + 1  # the axes span these images
                from_memory = stored & (whole | ~paired)
            partner = torch.where(from_memory, row, partner)
            paired = stored if self.partners == "memory" else paired | stored
        return NFAParams(
            batch=batch,
            mix=self.mix,
            index=index,
            chosen=chosen,
            partner=partner,
            fallback=fallback,
            from_memory=from_memory,
            paired=paired,
            weights=weights,
            noise=noise,
            memory=memory,
        )


def _placed(arrays: Sequence[Any], dtype: Any, device: torch.device) -> list[Tensor]:
    """Tensors of these arrays on a device, which share one upload."""
    shapes = [np.shape(array) for array in arrays]
    flat = np.concatenate([np.asarray(array, dtype).ravel() for array in arrays])
    parts = to_device(torch.from_numpy(flat), device).split([math.prod(s) for s in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def check_given_once(config: MixConfig | None, single: Mapping[str, Any]) -> None:
    """Raise ValueError if settings are given as a whole and singly, also where both agree."""
    if config is not None and single:
        raise ValueError(f"pass config=, or single settings; got {config} and {dict(single)}")


def _check_share(value: Any) -> float | tuple[float, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        return tuple(check_number("p", share, 0, 1) for share in listed)
    return check_number("p", listed, 0, 1)


def _check_gate(value: Any) -> float | None:
    gate = value.item() if hasattr(value, "item") else value  # a numpy.bool_ is not a bool
    if gate is None or gate is False:
        return None
    return check_number("gate", _GATE if gate is True else gate, 0, 1e6)  # squares stay finite
