"""Priors of the paper's tables: gradient descent (Baseline 2) and random means.

`register` adds one to the registry of nfaug under a name, which `TrainPriorConfig(kind=NAME)` and
`nfaug.fit(gaussians=NAME)` then take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from nfaug.classes.fixed_point.config import (
    Fit,
    FixedPointDivergence,
    FixedPointResult,
    Kernel,
    SeparationConfig,
)
from nfaug.classes.fixed_point.rules import KL_FLOOR
from nfaug.classes.fixed_point.solver import DIVERGENCE_RATIO, several_classes
from nfaug.classes.gaussians import pairwise_kl
from nfaug.classes.priors import PRIORS, Prior, recorded
from nfaug.io.numbers import check_number

Policy: TypeAlias = Literal["sublinear", "linear", "superlinear"]

#: The exponent n of the learning rate's factor (1 - p)^n after a share p of the steps.
EXPONENTS: dict[Policy, float] = {"sublinear": 0.5, "linear": 1, "superlinear": 4}

_ADVICE = "lower learning_rate, or lower kld_weight"


@dataclass(frozen=True)
class GradientDescentConfig(SeparationConfig):
    """Settings of gradient descent on the objective of the fixed point (Baseline 2).

    Args:
        fit: "means" (identity covariances), "covariances" (the data's means) or "both".
        kld_weight: c, the weight of the fixed point, with the same default.
        alpha: a, the softness of the kernel.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        policy: How the learning rate decays to 0. After a share p of the steps it is multiplied by
            sqrt(1 - p) ("sublinear"), 1 - p ("linear") or (1 - p)^4 ("superlinear"). The paper
            names these policies; their formulas are in a supplement that was not available.
        learning_rate: The initial learning rate. Above twice the smallest variance, the likelihood
            alone makes the means oscillate and diverge.
        steps: The number of steps over which the learning rate decays.
        tolerance: Stop when the gradient of every class has at most this L2 norm, both for the
            means and for the parameters of the variances.
        variance_bounds: (low, high) of v = low + (high - low) * sigmoid(theta).

    Raises:
        ValueError: If a value is out of range.
    """

    fit: Fit = "both"
    policy: Policy = "linear"
    learning_rate: float = 0.1
    steps: int = 300
    tolerance: float = 0.1
    variance_bounds: tuple[float, float] = (0.1, 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in EXPONENTS:
            allowed = ", ".join(map(repr, EXPONENTS))
            raise ValueError(f"policy must be one of {allowed}; got {self.policy!r}")
        check_number("learning_rate", self.learning_rate, 0, math.inf, open_low=True)
        check_number("steps", self.steps, 1, math.inf)


def objective(
    data_means: Tensor,
    data_variances: Tensor,
    means: Tensor,
    variances: Tensor,
    weight: float,
    *,
    pi: Kernel = "forward",
    alpha: float = 10.0,
) -> Tensor:
    r"""The objective J whose stationary points Proposition 1 describes; a differentiable scalar.

    .. math:: J = \sum_y \frac12 \sum_i \left[\log 2\pi v_{yi} + \frac{s_{yi} +
              (m_{yi} - \mu_{yi})^2}{v_{yi}}\right] + c \sum_{y \neq y'}
              \exp\left(-\frac{KL(y \| y')}{sg(\pi)\, a}\right)

    The first sum is each class's mean negative log-likelihood in nats. sg stops the gradient: the
    equations treat pi as a constant, and without sg Eq. 3 with Eq. 9 would be constant.
    """
    errors = data_variances + (data_means - means).square()
    nll = 0.5 * (errors / variances + (2 * math.pi * variances).log()).sum()
    kl = pairwise_kl(means, variances)
    scale = kl.detach()
    if pi == "mean":  # over pairs of different classes; the diagonal is zero
        scale = scale.sum() / (len(kl) * (len(kl) - 1))
    terms = torch.exp(-kl / (scale.clamp(min=KL_FLOOR) * alpha))
    return nll + weight * (terms.sum() - len(kl))  # each term of the diagonal is 1


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_descent(
    data_means: Tensor, data_variances: Tensor, config: GradientDescentConfig | None = None
) -> FixedPointResult:
    r"""Find class gaussians by gradient descent on J, the fixed point's objective (Baseline 2).

    It starts from the data's gaussians, as the fixed point does. Variances are parametrised as
    :math:`v = low + (high - low)\,\sigma(\theta)`, which keeps them within bounds. With identity
    covariances (fit "means") a step equals a fixed-point step with the learning rate as damping.

    Arguments and errors are those of `nfaug.classes.fixed_point.solve`. The ``residual`` of the
    result is the largest L2 norm, over classes, of the gradient of J, for the means and for theta.
    """
    config = config or GradientDescentConfig()
    data = several_classes(data_means, data_variances)
    weight = config.weight(*data_means.shape)
    low, high = config.variance_bounds
    means = data.means.clone().requires_grad_(config.fit != "covariances")
    # Slightly inside the bounds, where theta is finite.
    theta = ((data.variances - low) / (high - low)).clamp(1e-3, 1 - 1e-3).logit()
    theta.requires_grad_(config.fit != "means")
    parameters = [x for x in (means, theta) if x.requires_grad]
    optimizer = torch.optim.SGD(parameters, config.learning_rate)
    exponent = EXPONENTS[config.policy]
    schedule = LambdaLR(optimizer, lambda step: (1 - step / config.steps) ** exponent)
    limit = DIVERGENCE_RATIO  # of a gradient; times the first residual, if that is above 1
    for step in range(1, config.steps + 1):
        variances = torch.ones_like(theta)
        if config.fit != "means":
            variances = low + (high - low) * theta.sigmoid()
        value = objective(*data, means, variances, weight, pi=config.kernel, alpha=config.alpha)
        optimizer.zero_grad()
        value.backward()
        mean_lengths = _gradient_lengths(means)
        theta_lengths = _gradient_lengths(theta)
        in_range = (mean_lengths < limit) & (theta_lengths < limit)  # false for NaN
        if not bool(in_range.all()):
            first_class = int((~in_range).nonzero()[0])
            raise FixedPointDivergence(step, first_class, weight, _ADVICE)
        residual = float(torch.maximum(mean_lengths, theta_lengths).max())
        if step == 1:
            limit *= max(1.0, residual)
        if residual <= config.tolerance or step == config.steps:
            break
        optimizer.step()
        schedule.step()
    converged = residual <= config.tolerance
    return FixedPointResult(means.detach(), variances.detach(), converged, step, residual)


def _gradient_lengths(parameter: Tensor) -> Tensor:
    """The L2 norm of each class's gradient; 0 for a parameter that is not fitted."""
    if parameter.grad is None:
        return parameter.new_zeros(len(parameter))
    return torch.linalg.vector_norm(parameter.grad, dim=1)


def register(name: str, settings: GradientDescentConfig | float) -> None:
    """Add a prior to nfaug's: gradient descent, or random means of this standard deviation."""

    def by_descent(means: Tensor, variances: Tensor, *_: Any) -> Any:
        assert isinstance(settings, GradientDescentConfig)
        return recorded(settings, gradient_descent(means, variances, settings))

    def at_random(means: Tensor, _: Tensor, __: Any, generator: torch.Generator | None) -> Any:
        assert isinstance(settings, float)
        return random_gaussians(means.shape, settings, generator)

    if isinstance(settings, GradientDescentConfig):
        PRIORS[name] = Prior(by_descent, min_classes=2)
    else:
        PRIORS[name] = Prior(at_random, needs_latents=False)


def random_gaussians(
    shape: torch.Size, scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Means from N(0, scale^2) and identity covariances, of shape (K, d), and a record.

    As in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025), only the flow separates the classes.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    device = None if generator is None else generator.device
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
    return scale * normal, torch.ones_like(normal), {"scale": scale}
