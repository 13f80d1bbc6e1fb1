"""Settings and results of the fixed point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ...io.numbers import check_number, check_whole
from ...io.types import Tensor

#: kld_weight * (K - 1) / d, which is ours. It comes from two released weights at d = 3 * 32 * 32,
#: those of means and variances: 3,333 x 9 = 303 x 99. Those of the means alone agree in nothing:
#: 5,556 x 9 = 5.0e4 and 758 x 99 = 7.5e4.
REFERENCE_WEIGHT: float = 3e4 / 3072

#: The version of the rules, in records of a solve; see `read_record`.
RULES_VERSION: int = 2

Fit: TypeAlias = Literal["means", "covariances", "both"]
Kernel: TypeAlias = Literal["forward", "mean"]
Update: TypeAlias = Literal["released", "no_class_sum", "proposition1"]

# The checks of `SeparationConfig` cover fields of its subclasses, too.
_CHOICES: dict[str, Any] = {"fit": Fit, "kernel": Kernel, "update": Update}
_POSITIVE = ("alpha", "tolerance")


@dataclass(frozen=True)
class SeparationConfig:
    """Settings of the objective that separates the classes, which solvers share."""

    fit: Fit = "means"
    kld_weight: float | None = None
    alpha: float = 10.0
    kernel: Kernel = "forward"

    def __post_init__(self) -> None:
        settings = vars(self)
        for name, choices in _CHOICES.items():
            if name in settings and settings[name] not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {allowed}; got {settings[name]!r}")
        for name in _POSITIVE:
            if name in settings:
                check_number(name, settings[name], 0, math.inf, open_low=True)
        if self.kld_weight is not None:
            check_number("kld_weight", self.kld_weight, 0, math.inf)
        bounds = settings.get("variance_bounds")
        if bounds is not None:
            object.__setattr__(self, "variance_bounds", _check_bounds(bounds))

    def weight(self, num_classes: int, dim: int) -> float:
        r"""The weight c for K classes in d dimensions: ``kld_weight`` or, if that is None,

        .. math:: c = w\,\frac{d}{K - 1}, \quad w = \mathrm{REFERENCE\_WEIGHT} = 3 \cdot 10^4 / 3072

        which keeps the distance between classes for any d: sqrt(3.5 K / (K - 1)) standard
        deviations per coordinate for alpha = 10. A weight that does not scale with d separates the
        classes of small images too far and destabilises their flow. The rule is ours. It comes from
        the released weights of means and variances, 3,333 for 10 classes and 303 for 100, which it
        gives in 3,072 dimensions. The released weights of the means alone are larger, 5,556 and
        758, and follow no such rule: w would be 5.0e4 / 3072 and 7.5e4 / 3072.
        """
        if self.kld_weight is not None:
            return self.kld_weight
        return REFERENCE_WEIGHT * dim / (num_classes - 1)


def _check_bounds(bounds: object) -> tuple[Any, ...]:
    """Check that 0 < low < high, and return a tuple, where JSON and YAML have a list."""
    pair: tuple[Any, ...] = ()
    if isinstance(bounds, list | tuple):
        pair = tuple(bounds)
    for bound in pair:
        check_number("variance_bounds", bound, 0, math.inf, open_low=True)
    if len(pair) != 2 or pair[0] >= pair[1]:
        raise ValueError(f"variance_bounds must be 0 < low < high; got {bounds!r:.80}")
    return pair


@dataclass(frozen=True)
class FixedPointConfig(SeparationConfig):
    """Settings of the fixed-point iteration (https://hal.science/hal-04767310v1, Eqs. 5-10).

    Args:
        fit: "means" uses identity covariances (the default and the most robust), "covariances"
            uses the data's means, "both" fits both.
        kld_weight: c, the factor in front of the sums of Eqs. 5-7, and the axis of the paper's
            Table 2. The paper's lambda is c * K * (K - 1). None gives 3e4 / 3072 * d / (K - 1) in
            d dimensions with K classes, a rule of ours from the paper's weights of means and
            variances.
        alpha: a, the softness of the kernel; the paper uses 0.1 to 10.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        update: The covariance rule. "released" is that of the authors' code, in all of its
            configurations. It has a fixed point at every weight tried with fit "both", but biases
            variances towards 1: at weight 0 it returns s^(1/3), not the data's s. "no_class_sum" is
            the same without the sum over classes inside the spread. "proposition1" is the paper's
            Proposition 1: it is stationary for the objective and returns s at weight 0, but the
            objective is unbounded below even at small weights (with "forward", above
            alpha * exp(1/alpha) / (2 (K - 1))): set ``variance_bounds``.
        isotropic_mean_step: Replace every variance in the mean update by its mean over
            coordinates, and every inverse by the mean of the inverses, which prevents single
            coordinates from diverging. The means are then stationary for the objective only if each
            class has equal variances in all coordinates. Most released configurations have it.
        damping: s in x <- x + s * (M(x) - x), for means and log-variances; in (0, 1]. The fixed
            points do not depend on it. The authors' code has none (1), with which nearly equal
            means oscillate forever.
        tolerance: Converged when no class's mean or variance vector would move by more than this
            (L2 norm of the undamped step, latent units). The default is the authors'.
        max_iterations: The largest number of evaluations of the update.
        variance_bounds: (low, high); variances are clamped to it after every update.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> FixedPointConfig(kld_weight=20.0).weight(num_classes=10, dim=64)
        20.0
    """

    update: Update = "released"
    isotropic_mean_step: bool = True
    damping: float = 0.5
    tolerance: float = 0.1
    max_iterations: int = 300
    variance_bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("damping", self.damping, 0, 1, open_low=True)
        check_whole("max_iterations", self.max_iterations)


def read_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of how Gaussians were found, in the words of this version.

    Records of a solve have `rules_version`, `RULES_VERSION`. One without is older: its update
    "released" is the rule that is now "no_class_sum", and its isotropic step of the means divided
    by the mean of the variances. It keeps having no version.
    """
    read = dict(record)
    if "rules_version" not in read and read.get("update") == "released":
        read["update"] = "no_class_sum"
    return read


@dataclass(frozen=True)
class FixedPointResult:
    """Finite class Gaussians and how the solver reached them.

    Attributes:
        means: The class means, shape (K, d).
        variances: The class variances, shape (K, d).
        converged: Whether ``residual`` is within the tolerance.
        iterations: The number of evaluations of the update.
        residual: The largest L2 norm, over classes, of the undamped step that would follow.

    Example:
        >>> import torch
        >>> from nfaug.classes.fixed_point import solve
        >>> result = solve(torch.eye(3), torch.ones(3, 3))
        >>> result.means.shape, result.converged
        (torch.Size([3, 3]), True)
    """

    means: Tensor
    variances: Tensor
    converged: bool
    iterations: int
    residual: float


@dataclass(eq=False)
class FixedPointDivergence(ArithmeticError):
    """A mean is not finite, or a variance is far outside the range of the data's.

    Attributes:
        iteration: The evaluation of the update at which it happened, from 1.
        class_index: The first class whose Gaussian left the range.
        kld_weight: The weight c, with the default resolved.
        advice: Which settings to change.

    Example:
        >>> str(FixedPointDivergence(7, 2, 20.0, "lower kld_weight"))[:31]
        'the Gaussian of class 2 diverge'
    """

    iteration: int
    class_index: int
    kld_weight: float
    advice: str

    def __str__(self) -> str:
        return (
            f"the Gaussian of class {self.class_index} diverged at iteration {self.iteration}: a "
            "mean is not finite, or a variance is more than 1e12 times outside the range of the "
            f"data's, at kld_weight {self.kld_weight:g}; {self.advice}"
        )
