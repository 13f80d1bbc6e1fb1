"""The registry of priors: ways to find the class Gaussians that a flow is trained under.

One line adds a prior of your own, whose settings a closure can hold, before a fit or a training
that names it:

    PRIORS["mine"] = Prior(lambda means, variances, settings, generator: (means, variances, {}))
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from ..io.text import did_you_mean
from ..io.types import Generator, Tensor
from .fixed_point.config import (
    RULES_VERSION,
    FixedPointConfig,
    FixedPointResult,
    SeparationConfig,
)

#: Means and variances, both (K, d), and a JSON record of the solve for the checkpoint.
Solution: TypeAlias = tuple[Tensor, Tensor, dict[str, Any]]


@dataclass(frozen=True)
class Prior:
    """An entry of the registry `PRIORS`.

    Args:
        solve: A pure function of the class means and variances of the latents, both (K, d), the
            settings, and a source of randomness or None. It returns means and variances, both
            (K, d), and a JSON record for the checkpoint.
        option: The field of `PriorConfig` that holds the settings; empty if there are none.
        labelled: One Gaussian per class. If False, labels are not used and there is one Gaussian.
        needs_latents: ``solve`` reads the means and variances. If False, it reads only their shape.
        min_classes: The smallest number of classes.
    """

    solve: Callable[[Tensor, Tensor, Any, Generator | None], Solution]
    option: str = ""
    labelled: bool = True
    needs_latents: bool = True
    min_classes: int = 1


def _fixed_point(means: Tensor, variances: Tensor, settings: FixedPointConfig, _: Any) -> Solution:
    """The fixed point of Eqs. 5-7."""
    from .fixed_point.solver import solve  # settings alone need no torch

    means, variances, record = recorded(settings, solve(means, variances, settings))
    return means, variances, record | {"rules_version": RULES_VERSION}


def _data(means: Tensor, variances: Tensor, *_: Any) -> Solution:
    """The data's means and variances (Baseline 1), which are the fixed point at weight 0."""
    from .gaussians import as_double, check_gaussians

    check_gaussians(means, variances)
    return as_double(means), as_double(variances), {}


def _single(means: Tensor, *_: Any) -> Solution:
    """One standard Gaussian for all images."""
    return means.new_zeros(means.shape), means.new_ones(means.shape), {}


def recorded(settings: SeparationConfig, result: FixedPointResult) -> Solution:
    """The result of an iterative solver and its record, with a warning if it did not converge."""
    if not result.converged:
        warnings.warn(
            f"the class Gaussians did not converge: residual {result.residual:.3g} after "
            f"{result.iterations} iterations; lower kld_weight or allow more iterations",
            RuntimeWarning,
            stacklevel=4,  # the caller of the function that calls Prior.solve
        )
    record = asdict(settings)
    record["kld_weight"] = settings.weight(*result.means.shape)
    record["converged"] = result.converged
    record["iterations"] = result.iterations
    record["residual"] = result.residual
    return result.means, result.variances, record


#: The priors by name. A caller may add to them.
PRIORS: dict[str, Prior] = {
    "fpi": Prior(_fixed_point, "fixed_point", min_classes=2),
    "data": Prior(_data),
    "single": Prior(_single, labelled=False, needs_latents=False),
}


def fitted_priors() -> list[str]:
    """The names of the priors that can be fitted to an existing flow, which use its latents."""
    return [kind for kind, prior in PRIORS.items() if prior.needs_latents]


@dataclass(frozen=True)
class PriorConfig:
    """The choice of a prior, and the settings of each.

    Args:
        kind: A name in `PRIORS`: "fpi" (the fixed point), "data" (means and variances of the
            latents) or "single" (one standard Gaussian; labels are not used, and `nfaug fit` adds
            classes later).
        fixed_point: Settings of "fpi".

    Raises:
        ValueError: If there is no such prior.
    """

    kind: str = "fpi"
    fixed_point: FixedPointConfig = field(default_factory=FixedPointConfig)

    def __post_init__(self) -> None:
        if self.kind not in PRIORS:
            raise ValueError(
                f"prior.kind must be one of {', '.join(PRIORS)}; got {self.kind!r}"
                f"{did_you_mean(str(self.kind), PRIORS)}"
            )

    @property
    def entry(self) -> Prior:
        """The registry entry of ``kind``."""
        return PRIORS[self.kind]

    @property
    def settings(self) -> Any:
        """The settings of ``kind``; None if it has none."""
        option = self.entry.option
        if not option:
            return None
        return getattr(self, option)


def choose_prior(gaussians: object) -> PriorConfig | None:
    """Find one of `fitted_priors` by its name, such as "data", or by its settings; None for False.

    True is "data".

    Raises:
        ValueError: If there is none.
    """
    if gaussians is False:
        return None
    if gaussians is True:
        gaussians = "data"
    kinds = fitted_priors()
    if isinstance(gaussians, str) and gaussians in kinds:
        return PriorConfig(gaussians)
    if isinstance(gaussians, FixedPointConfig):
        return PriorConfig("fpi", fixed_point=gaussians)
    names = ", ".join(repr(kind) for kind in kinds)
    raise ValueError(
        f"gaussians must be False, one of {names}, or a FixedPointConfig; got {gaussians!r}"
    )
