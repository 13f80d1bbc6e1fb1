"""The registry of priors: ways to find the class gaussians that a flow is trained under.

To add one, write a module with a `Prior` and add a line to `PRIORS`. If it has settings, add the
field that ``Prior.option`` names to `PriorSettings`: the configuration file and the command line
read it from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..fixed_point.config import FixedPointConfig
from .base import Prior
from .gradient import GRADIENT, GradientDescentConfig
from .simple import DATA, FPI, RANDOM, SINGLE

__all__ = [
    "FITTED_PRIORS",
    "PRIORS",
    "GradientDescentConfig",
    "Prior",
    "PriorSettings",
    "choose_prior",
]

PRIORS: dict[str, Prior] = {
    "fpi": FPI,
    "data": DATA,
    "gradient": GRADIENT,
    "random": RANDOM,
    "single": SINGLE,
}

#: The priors that can be fitted to an existing flow: those that use the latents.
FITTED_PRIORS = {kind: prior for kind, prior in PRIORS.items() if prior.needs_latents}

Kind: TypeAlias = Literal[tuple(PRIORS)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class PriorSettings:
    """The choice of a prior, and the settings of each.

    Args:
        kind: "fpi" (the fixed point), "data" (means and variances of the latents), "gradient"
            (gradient descent on the objective of the fixed point), "random" (fixed random means,
            identity covariances) or "single" (one standard gaussian; labels are not used, and
            `nfaug fit` adds classes later).
        fixed_point: Settings of "fpi".
        gradient: Settings of "gradient".
        random_scale: Standard deviation of the means of "random".

    Raises:
        ValueError: If there is no such prior.
    """

    kind: Kind = "fpi"
    fixed_point: FixedPointConfig = field(default_factory=FixedPointConfig)
    gradient: GradientDescentConfig = field(default_factory=GradientDescentConfig)
    random_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in PRIORS:
            raise ValueError(f"kind must be one of {', '.join(PRIORS)}, got {self.kind!r}")

    @property
    def entry(self) -> Prior:
        """The registry entry of ``kind``."""
        return PRIORS[self.kind]

    @property
    def settings(self) -> Any:
        """The settings of ``kind``; None if it has none."""
        return getattr(self, self.entry.option) if self.entry.option else None


def choose_prior(given: object) -> PriorSettings:
    """Find one of `FITTED_PRIORS` by its name, such as "data", or by its settings.

    Raises:
        ValueError: If there is none.
    """
    for kind, prior in FITTED_PRIORS.items():
        if isinstance(given, str) and given == kind:
            return PriorSettings(kind)
        if prior.option and isinstance(given, type(prior.defaults)):
            return PriorSettings(kind, **{prior.option: given})
    kinds = ", ".join(map(repr, FITTED_PRIORS))
    raise ValueError(f"gaussians must be one of {kinds}, or the settings of one, got {given!r}")
