"""MixConfig: everything that decides what NFA does to an image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

from ..io.numbers import check_number
from ..io.text import did_you_mean
from ..io.types import Tensor

Mix = Literal["axis", "pair", "regions"]
Partners = Literal["auto", "batch", "memory"]

#: What to do about arguments of earlier versions.
GONE = {
    "cuda_graphs": "no call is replayed by CUDA graphs, so leave it out",
    "residual": "a bank holds whole images, at the size image_size=",
}


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """What NFA does to an image.

    `NFAugment`, banks, previews, the adapters and the command line all take these settings. A new
    one is a field, a line under `Args` and a check here, the same keyword in `MixSettings`, and its
    use in `draw`.

    Example:
        >>> from nfaug import MixConfig
        >>> config = MixConfig(strength=1.0, gate=None)
        >>> config.strength, config.p
        (1.0, 0.5)

    Args:
        p: Probability that an image is replaced by a variant, in [0, 1]: one number, or one for
            each class, such as [0.2, 0.8]. The largest of them decides the cost.
        alpha: Parameter of Beta(alpha, alpha), the distribution of the mixing weights.
        mix: Mixing weights: one for each axis ("axis"), one for each image ("pair"), or one for
            each position ("regions"): a smooth mask of about 4 x 4 regions, which takes half of the
            image from the partner, and more with a `strength` above 1.
        partners: Source of partners: other images of the batch among those that are chosen
            ("batch"; with a small `p` or many classes, few of them have one), the memory of the
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
        gate: How far from its class an image or its variant may lie before the image stays
            unchanged; None for no limit. 1.0 is the limit found at fitting, the 99% quantile of
            held-out images. In classes of 5 to 10 images, 1.25 leaves about one image in six
            unchanged, and 1.0 half of them.

    Raises:
        ValueError: A setting is out of range.
    """

    p: float | tuple[float, ...] = 0.5
    alpha: float = 1.0
    mix: Mix = "axis"
    partners: Partners = "auto"
    strength: float = 1.5
    noise: float = 0.0
    gate: float | None = 1.25

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "p": _check_share(self.p),
            "alpha": check_number("alpha", self.alpha, 0, math.inf, open_low=True),
            "strength": check_number("strength", self.strength, 0, math.inf),
            "noise": check_number("noise", self.noise, 0, math.inf),
            "gate": _check_gate(self.gate),
        }
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                choices = get_args(hint)
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {value!r}"
                    f"{did_you_mean(str(value), choices)}"
                )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def needs_batch(self, *, has_memory: bool) -> bool:
        """Whether some partners are other images of the batch.

        Args:
            has_memory: Whether the checkpoint has a memory.

        Returns:
            True if a batch of one image would find no partner in it.
        """
        alone = ("memory",) if self.mix == "regions" else ("auto", "memory")
        return not (has_memory and self.partners in alone)


class MixSettings(TypedDict, total=False):
    """The fields of `MixConfig` as keywords, for type checkers and editors."""

    p: float | Sequence[float] | Tensor
    alpha: float
    mix: Mix
    partners: Partners
    strength: float
    noise: float
    gate: float | None


def one_config(config: MixConfig | None, settings: Mapping[str, Any]) -> MixConfig:
    """The settings that are given as a whole, or one by one.

    Raises:
        ValueError: They are given in both ways, also where both agree.
        TypeError: There is no setting of a name.
    """
    for name in GONE.keys() & settings.keys():
        raise TypeError(f"there is no argument {name!r} any more: {GONE[name]}")
    if config is None:
        names = [field.name for field in dataclasses.fields(MixConfig)]
        for name in settings:
            if name not in names:
                raise TypeError(
                    f"there is no argument {name!r}{did_you_mean(name, names)} (settings are "
                    f"{', '.join(names)})"
                )
        return MixConfig(**settings)
    if not isinstance(config, MixConfig):
        raise ValueError(f"config must be a nfaug.MixConfig; got {config!r:.200}")
    if settings:
        raise ValueError(f"pass config=, or single settings; got {config} and {dict(settings)}")
    return config


def _check_share(value: Any) -> float | tuple[float, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        return tuple(check_number("p", share, 0, 1) for share in listed)
    return check_number("p", listed, 0, 1)


def _check_gate(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":  # or NumPy's
        raise ValueError(f"gate must be a number, or None for no limit; got {value}")
    return check_number("gate", value, 0, 1e6)  # squares stay finite
