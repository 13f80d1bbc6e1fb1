"""The contract of a prior: how the class gaussians of a flow are found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointResult, SeparationConfig

__all__ = ["Prior", "Solution", "solution"]

#: Means and variances, both (K, d), and a JSON record of the solve for the checkpoint.
Solution: TypeAlias = tuple[Tensor, Tensor, dict[str, Any]]


@dataclass(frozen=True)
class Prior:
    """An entry of the registry `PRIORS`.

    Args:
        solve: A pure function of the class means and variances of the latents, both (K, d), the
            settings, and a source of randomness or None. It returns a `Solution`.
        option: The field of `PriorSettings` that holds the settings; empty if there are none.
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


def solution(settings: SeparationConfig, result: FixedPointResult) -> Solution:
    """The result of an iterative solver and its record; warns if it did not converge."""
    if not result.converged:
        warnings.warn(
            f"the class gaussians did not converge: residual {result.residual:.3g} after "
            f"{result.iterations} iterations; lower kld_weight or allow more iterations",
            RuntimeWarning,
            stacklevel=4,  # the caller of the function that calls Prior.solve
        )
    record = {
        **asdict(settings),
        "kld_weight": settings.weight(*result.means.shape),
        "converged": result.converged,
        "iterations": result.iterations,
        "residual": result.residual,
    }
    return result.means, result.variances, record
