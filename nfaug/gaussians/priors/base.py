"""The contract of a prior: how the class gaussians of a flow are found."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..fixed_point.config import FixedPointResult, SeparationConfig

__all__ = ["Prior", "Solve", "solve_record"]


class Solve(Protocol):
    """The function that finds class gaussians."""

    def __call__(
        self,
        means: Tensor,
        variances: Tensor,
        settings: Any,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Find means and variances, both (K, d), and a JSON record for the checkpoint.

        Args:
            means: The class means of the latents, shape (K, d). A prior with ``needs_latents``
                False reads only the shape.
            variances: The class variances, shape (K, d).
            settings: The prior's settings, of the type of ``Prior.defaults``.
            generator: Source of randomness.
        """


@dataclass(frozen=True)
class Prior:
    """An entry of the registry `PRIORS`.

    Args:
        solve: Finds the gaussians: see `Solve`.
        option: The field of `PriorSettings` that holds the settings; empty if there are none.
        defaults: The default settings, None if there are none.
        labelled: One gaussian per class. If False, labels are not used and there is one gaussian.
        needs_latents: ``solve`` reads the statistics of the latents.
        min_classes: The smallest number of classes.
    """

    solve: Solve
    option: str = ""
    defaults: Any = None
    labelled: bool = True
    needs_latents: bool = True
    min_classes: int = 1


def solve_record(config: SeparationConfig, result: FixedPointResult) -> dict[str, Any]:
    """The settings and outcome of a solve, for the checkpoint; warns if it did not converge."""
    if not result.converged:
        warnings.warn(
            f"the class gaussians did not converge: residual {result.residual:.3g} after "
            f"{result.iterations} iterations; lower kld_weight or allow more iterations",
            RuntimeWarning,
            stacklevel=4,  # the caller of the function that calls Prior.solve
        )
    return {
        **asdict(config),
        "kld_weight": config.weight(*result.means.shape[:2]),
        "converged": result.converged,
        "iterations": result.iterations,
        "residual": result.residual,
    }
