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
    "default_weight",
]

#: kld_weight * (K - 1) / d in both settings published with the paper: 3333 x 9 and 303 x 99, both
#: at d = 3 * 32 * 32.
REFERENCE_WEIGHT = 3e4 / 3072

Fit = Literal["means", "covariances", "both"]
Kernel = Literal["forward", "mean"]
Update = Literal["released", "proposition1"]


def default_weight(num_classes: int, dim: int) -> float:
    r"""The weight c that puts classes as far apart, coordinate by coordinate, as the paper's does.

    .. math:: c = w\,\frac{d}{K - 1}, \quad w = \mathrm{REFERENCE\_WEIGHT} = 3 \cdot 10^4 / 3072

    With identity covariances and pi of Eq. 9 the kernel is :math:`2 e^{-1/a} / (a D^2)` between
    classes at distance D. Where the classes are one another's equals (every pair at distance D, the
    data's means together), the mean update :math:`\mu_y = c \sum_{y'} 2 K_{yy'} (\mu_y -
    \mu_{y'})`, with the means' average at 0, balances at

    .. math:: 1 = 2 c K \cdot \frac{2 e^{-1/a}}{a D^2}, \quad
              \frac{D^2}{d} = \frac{4 e^{-1/a}}{a} \cdot \frac{c K}{d}
              = \frac{4 e^{-1/a}}{a}\, w\, \frac{K}{K - 1}

    So a class is about 1.9 standard deviations from another in each coordinate (alpha = 10),
    whatever d and K. A weight that does not grow with d gives small images a spacing that tears
    their flow apart: 3333 with 10 classes suits 3,072 dimensions, in 64 it is 69.

    Args:
        num_classes: K, at least 2.
        dim: d, at least 1.
    """
    return REFERENCE_WEIGHT * dim / (num_classes - 1)


@dataclass(frozen=True)
class FixedPointConfig:
    """What the fixed point fits, and how.

    Args:
        fit: "means" keeps identity covariances (ablation #2, the default and the sturdiest),
            "covariances" keeps the data's means (#3), "both" learns both (#4).
        kld_weight: c, the factor in front of the sums of Eqs. 5-7: the axis of the paper's Table 2.
            The paper's lambda is c * K * (K - 1). None means the spacing of the paper's settings
            in whatever dimension and number of classes: see `default_weight`.
        alpha: a, the softness of the kernel; the paper uses 0.1 to 10.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        update: The covariance rule. "released" gave the paper's numbers and has a fixed point at
            every weight tried, but draws variances towards 1: at weight 0 it returns s^(1/3), not
            the data's s as section 4.2 says. "proposition1" is stationary for the objective, and
            returns s at weight 0, but the objective is unbounded below from small weights on
            (with "forward", from alpha * exp(1/alpha) / (2 (K - 1))): give it ``variance_bounds``.
            With fit "covariances" even "released" lets variances grow without end at large
            weights, as 3,333 in 3,072 dimensions with 10 classes.
        isotropic_mean_step: Replace every variance in the mean update by its average over
            coordinates, which keeps a coordinate from running away. The means are then stationary
            for the objective only if each class's variance is the same in all coordinates.
        damping: s in x <- x + s * (M(x) - x), for means and log-variances; in (0, 1]. The fixed
            points do not depend on it. Undamped (1), nearly equal means oscillate for ever.
        tolerance: Converged when no class's mean or variance vector would move by more than this
            (L2 norm of the undamped step, latent units).
        max_iterations: The largest number of evaluations of the update.
        variance_bounds: (low, high) onto which variances are projected after every update.
        anderson: How many former steps a safeguarded Anderson acceleration works with; 0 for none.
            The fixed points are the same, but where there are several, another may be found. It
            keeps 2 ``anderson`` + 4 copies of the state.

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
    anderson: int = 0

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
        if self.anderson < 0:
            raise ValueError(f"anderson must be at least 0, got {self.anderson}")
        if self.variance_bounds is not None:
            low, high = self.variance_bounds
            # JSON and YAML give a list.
            object.__setattr__(self, "variance_bounds", (low, high))
            if not 0 < low < high < math.inf:
                raise ValueError(
                    "variance_bounds must be (low, high) with 0 < low < high, finite, got "
                    f"{self.variance_bounds}"
                )

    def weight(self, num_classes: int, dim: int) -> float:
        """c for this number of classes in this dimension, the default resolved."""
        return default_weight(num_classes, dim) if self.kld_weight is None else self.kld_weight

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
