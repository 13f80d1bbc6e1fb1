"""What the fixed-point iteration is asked to do, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

__all__ = [
    "REFERENCE_WEIGHT",
    "FixedPointConfig",
    "FixedPointDivergence",
    "FixedPointResult",
    "FixedPointStep",
]

#: kld_weight * (K - 1) in both settings published with the paper (303 x 99 and 3333 x 9).
REFERENCE_WEIGHT = 3e4

Fit = Literal["means", "covariances", "both"]
Kernel = Literal["forward", "mean"]
Update = Literal["released", "proposition1"]


@dataclass(frozen=True)
class FixedPointConfig:
    """What the fixed point fits, and how.

    Args:
        fit: "means" keeps identity covariances (ablation #2, the default and the sturdiest),
            "covariances" keeps the data's means (#3), "both" learns both (#4).
        kld_weight: c, the factor in front of the sums of Eqs. 5-7: the axis of the paper's Table 2.
            The paper's lambda is c * K * (K - 1). None means ``REFERENCE_WEIGHT`` / (K - 1), which
            keeps the distance between classes about the same whatever their number: with fit
            "means" it approaches sqrt(4 exp(-1/alpha) c K / alpha) where the data do not say more.
        alpha: a, the softness of the kernel; the paper uses 0.1 to 10.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        update: The covariance rule. "released" gave the paper's numbers and has a fixed point at
            every weight tried, but draws variances towards 1: at weight 0 it returns s^(1/3), not
            the data's s as section 4.2 says. "proposition1" is stationary for the objective, and
            returns s at weight 0, but the objective is unbounded below from small weights on
            (with "forward", from alpha * exp(1/alpha) / (2 (K - 1))): give it ``variance_bounds``.
        isotropic_mean_step: Replace every variance in the mean update by its average over
            coordinates, which keeps a coordinate from running away. The means are then stationary
            for the objective only if each class's variance is the same in all coordinates.
        damping: s in x <- x + s * (M(x) - x), for means and log-variances; in (0, 1]. The fixed
            points do not depend on it. Undamped (1), nearly equal means oscillate for ever.
        tolerance: Converged when no class's mean or variance vector would move by more than this
            (L2 norm of the undamped step, latent units).
        max_iterations: The largest number of evaluations of the update.
        variance_bounds: (low, high) onto which variances are projected after every update.

    Raises:
        ValueError: If a value is out of range.
    """

    fit: Fit = "means"
    kld_weight: float | None = None
    alpha: float = 10.0
    kernel: Kernel = "forward"
    update: Update = "released"
    isotropic_mean_step: bool = True
    damping: float = 0.5
    tolerance: float = 0.1
    max_iterations: int = 300
    variance_bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("fit", Fit), ("kernel", Kernel), ("update", Update)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(map(repr, get_args(choices)))
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.kld_weight is not None and not 0 <= self.kld_weight < math.inf:
            raise ValueError(
                f"kld_weight must be finite and at least 0, or None, got {self.kld_weight}"
            )
        for name in ("alpha", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must lie in (0, 1], got {self.damping}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if self.variance_bounds is not None:
            low, high = self.variance_bounds
            # JSON and YAML give a list.
            object.__setattr__(self, "variance_bounds", (low, high))
            if not 0 < low < high < math.inf:
                raise ValueError(
                    "variance_bounds must be (low, high) with 0 < low < high, finite, got "
                    f"{self.variance_bounds}"
                )

    def weight(self, num_classes: int) -> float:
        """c for this number of classes, the default resolved."""
        if self.kld_weight is None:
            return REFERENCE_WEIGHT / (num_classes - 1)
        return self.kld_weight

    def advice(self) -> str:
        """What to change where a solve diverges."""
        cures = ["lower kld_weight"]
        if self.fit != "means":
            if self.variance_bounds is None:
                cures.append("set variance_bounds, for example (0.1, 10)")
            if self.update != "released":
                cures.append("choose update='released'")
            cures.append("choose fit='means'")
        return ", or ".join(cures)


@dataclass(frozen=True)
class FixedPointStep:
    """One line of the convergence history, all of the state before the step.

    ``mean_residual`` and ``variance_residual`` are the largest over classes of the L2 norm of the
    undamped step; ``kl_min`` and ``kl_mean`` are over pairs of different classes, in nats.
    """

    iteration: int
    mean_residual: float
    variance_residual: float
    kl_min: float
    kl_mean: float

    @property
    def residual(self) -> float:
        return max(self.mean_residual, self.variance_residual)


@dataclass(frozen=True)
class FixedPointResult:
    """Class gaussians, always finite, and how they were reached.

    ``means`` and ``variances`` have shape (K, d), or (K, d, d) covariances from the dense solver.
    ``residual`` belongs to exactly these values: it is the largest over classes of the L2 norm of
    the step that one more undamped update would take. ``converged`` says that it is within the
    tolerance; ``iterations`` counts evaluations of the update.
    """

    means: Tensor
    variances: Tensor
    converged: bool
    iterations: int
    residual: float
    history: list[FixedPointStep] = field(default_factory=list)


class FixedPointDivergence(ArithmeticError):
    """The class gaussians left the range of positive finite numbers; the message says what to do.

    Attributes:
        iteration: The evaluation of the update that did it, from 1.
        class_index: The first class whose gaussian left the range.
        kld_weight: The weight c, resolved.
        advice: What to change.
        history: The steps before it.
    """

    def __init__(
        self,
        iteration: int,
        class_index: int,
        kld_weight: float,
        advice: str,
        history: list[FixedPointStep],
    ) -> None:
        self.iteration = iteration
        self.class_index = class_index
        self.kld_weight = kld_weight
        self.advice = advice
        self.history = history
        super().__init__(
            f"the class gaussians diverged at iteration {iteration}: that of class {class_index} "
            f"left the range of positive finite numbers at kld_weight {kld_weight:g}; {advice}"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # An exception is rebuilt from its message otherwise, which fails between processes.
        arguments = (self.iteration, self.class_index, self.kld_weight, self.advice, self.history)
        return type(self), arguments
