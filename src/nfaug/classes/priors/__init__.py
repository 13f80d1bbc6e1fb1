"""The registry of priors: ways to find the class gaussians that a flow is trained under.

To add one, write a module with its function, and add its name to `Kind` and a line to `PRIORS`. If
it has settings, add the field that ``Prior.option`` names to `PriorConfig`. The configuration
file and the command line read them from there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointConfig, FixedPointResult, GradientDescentConfig
from ..fixed_point.solver import solve
from ..gaussians import as_double, check_gaussians

__all__ = [
    "FITTED_PRIORS",
    "PRIORS",
    "GradientDescentConfig",
    "Prior",
    "PriorConfig",
    "choose_prior",
]

#: The names in `PRIORS`, which the command line lists.
Kind: TypeAlias = Literal["fpi", "data", "gradient", "random", "single"]

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
        defaults: The default settings; None if there are none.
        labelled: One gaussian per class. If False, labels are not used and there is one gaussian.
        needs_latents: ``solve`` reads the means and variances. If False, it reads only their shape.
        min_classes: The smallest number of classes.
    """

    solve: Callable[[Tensor, Tensor, Any, torch.Generator | None], Solution]
    option: str = ""
    defaults: Any = None
    labelled: bool = True
    needs_latents: bool = True
    min_classes: int = 1


def _fixed_point(means: Tensor, variances: Tensor, settings: FixedPointConfig, _: Any) -> Solution:
    """The fixed point of Eqs. 5-7."""
    return _recorded(settings, solve(means, variances, settings))


def _data(means: Tensor, variances: Tensor, *_: Any) -> Solution:
    """The data's means and variances (Baseline 1), which are the fixed point at weight 0."""
    check_gaussians(means, variances)
    return as_double(means), as_double(variances), {}


def _gradient(
    means: Tensor, variances: Tensor, settings: GradientDescentConfig, _: Any
) -> Solution:
    """Gradient descent on the objective of the fixed point (Baseline 2)."""
    from .gradient import gradient_descent  # a baseline, imported only if it is chosen

    return _recorded(settings, gradient_descent(means, variances, settings))


def _random(means: Tensor, _: Tensor, scale: float, generator: torch.Generator | None) -> Solution:
    """Means from N(0, scale^2) and identity covariances.

    As in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025), only the flow separates the classes.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    device = None if generator is None else generator.device
    normal = torch.randn(means.shape, generator=generator, dtype=torch.float64, device=device)
    return scale * normal, torch.ones_like(normal), {"scale": scale}


def _single(means: Tensor, *_: Any) -> Solution:
    """One standard gaussian for all images."""
    return torch.zeros_like(means), torch.ones_like(means), {}


def _recorded(
    settings: FixedPointConfig | GradientDescentConfig, result: FixedPointResult
) -> Solution:
    """The result of an iterative solver and its record, with a warning if it did not converge."""
    if not result.converged:
        warnings.warn(
            f"the class gaussians did not converge: residual {result.residual:.3g} after "
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


PRIORS: dict[Kind, Prior] = {
    "fpi": Prior(_fixed_point, "fixed_point", FixedPointConfig(), min_classes=2),
    "data": Prior(_data),
    "gradient": Prior(_gradient, "gradient", GradientDescentConfig(), min_classes=2),
    "random": Prior(_random, "random_scale", 1.0, needs_latents=False),
    "single": Prior(_single, labelled=False, needs_latents=False),
}

#: The priors that can be fitted to an existing flow: those that use the latents.
FITTED_PRIORS: dict[Kind, Prior] = {
    kind: prior for kind, prior in PRIORS.items() if prior.needs_latents
}


@dataclass(frozen=True)
class PriorConfig:
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
        option = self.entry.option
        if not option:
            return None
        return getattr(self, option)


def choose_prior(gaussians: object) -> PriorConfig:
    """Find one of `FITTED_PRIORS` by its name, such as "data", or by its settings.

    Raises:
        ValueError: If there is none.
    """
    for kind, prior in FITTED_PRIORS.items():
        if isinstance(gaussians, str) and gaussians == kind:
            return PriorConfig(kind)
        if prior.option and isinstance(gaussians, type(prior.defaults)):
            settings: dict[str, Any] = {prior.option: gaussians}
            return PriorConfig(kind, **settings)
    kinds = ", ".join(repr(kind) for kind in FITTED_PRIORS)
    raise ValueError(f"gaussians must be one of {kinds}, or the settings of one, got {gaussians!r}")
