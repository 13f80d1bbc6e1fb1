"""The prior "gradient": class gaussians by gradient descent (Baseline 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..fixed_point.config import (
    Fit,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
    SeparationConfig,
)
from ..fixed_point.rules import class_nll, divergence_penalty
from ..fixed_point.solver import (
    DIVERGENCE_RATIO,
    StepReport,
    as_double,
    check_classes,
    record,
)
from ..gaussians import pairwise_kl
from .base import Prior, solution

__all__ = ["GRADIENT", "GradientDescentConfig", "gradient_descent", "learning_rate_factor"]

Policy = Literal["sublinear_v1", "sublinear_v2", "linear", "superlinear_v1", "superlinear_v2"]


@dataclass(frozen=True)
class GradientDescentConfig(SeparationConfig):
    """Settings of gradient descent on the objective of the fixed point (Baseline 2).

    Args:
        fit: "means" (identity covariances), "covariances" (the data's means) or "both".
        kld_weight: c, the weight of the fixed point, with the same default.
        alpha: a, the softness of the kernel.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        policy: How the learning rate decays to 0. "linear" is 1 - t after a share t of the steps;
            at first, sublinear ones decay more slowly and superlinear ones faster.
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
        self._check_choices(policy=Policy)
        self._check_positive("learning_rate", "tolerance", "steps")
        self._check_bounds(self.variance_bounds)


def learning_rate_factor(policy: Policy, progress: float) -> float:
    r"""The factor of the learning rate after a fraction p = ``progress`` of the steps.

    All five policies decay from 1 to 0. The linear one is 1 - p; at first, sublinear ones decay
    more slowly and superlinear ones faster:

    ============== ======================
    sublinear_v1   :math:`\sqrt{1 - p}`
    sublinear_v2   :math:`\cos(\pi p / 2)`
    linear         :math:`1 - p`
    superlinear_v1 :math:`(1 - p)^2`
    superlinear_v2 :math:`(1 - p)^4`
    ============== ======================

    Table 1 of the paper names five such policies. Their formulas are in a supplement that was
    not available, so these are this package's own.
    """
    rest = 1 - progress
    factors = {
        "sublinear_v1": math.sqrt(rest),
        "sublinear_v2": math.cos(math.pi * progress / 2),
        "linear": rest,
        "superlinear_v1": rest**2,
        "superlinear_v2": rest**4,
    }
    return factors[policy]


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_descent(
    data_means: Tensor,
    data_variances: Tensor,
    config: GradientDescentConfig | None = None,
) -> FixedPointResult:
    r"""Find class gaussians by gradient descent on J, the fixed point's objective (Baseline 2).

    It starts from the data's gaussians, as the fixed point does. Variances are parametrized as
    :math:`v = low + (high - low)\,\sigma(\theta)`, which keeps them within bounds. With identity
    covariances (fit "means") a step equals a fixed-point step with the learning rate as damping.

    Args:
        data_means: Class means of the latents, shape (K, d).
        data_variances: Class variances, shape (K, d), positive; clamped to the bounds.
        config: Settings; the defaults if None.

    Returns:
        Finite gaussians in float64. ``residual`` is the largest L2 norm, over classes, of the
        gradient of J at these values, for the means and for theta.

    Raises:
        ValueError: If an input is invalid, as in `nfaug.classes.fixed_point.solve`.
        FixedPointDivergence: If a gradient diverges.
    """
    config = GradientDescentConfig() if config is None else config
    # Copies, because the caller's tensors may be inference tensors, which allow no gradients.
    doubles = as_double(data_means, data_variances)
    data = doubles[0].clone(), doubles[1].clone()
    means = data[0].clone()
    check_classes(means)
    weight = config.weight(*means.shape)
    low, high = config.variance_bounds
    # Slightly inside the bounds, where theta is finite.
    theta = ((data[1] - low) / (high - low)).clamp(1e-3, 1 - 1e-3).logit()
    fitted = {"means": [means], "covariances": [theta], "both": [means, theta]}[config.fit]
    history: list[FixedPointStep] = []
    converged = False
    for step in range(1, config.steps + 1):
        for x in fitted:
            x.requires_grad_()
        variances = means.new_ones(len(means), 1)
        if config.fit != "means":
            variances = low + (high - low) * theta.sigmoid()
        kl = pairwise_kl(means, variances)
        objective = class_nll(*data, means, variances)
        objective = objective + weight * divergence_penalty(kl, config.kernel, config.alpha)
        gradients = torch.autograd.grad(objective, fitted)
        for x in fitted:
            x.requires_grad_(False)
        lengths = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients])
        longest = DIVERGENCE_RATIO * max(1.0, history[0].residual if history else 1.0)
        bad = ~(lengths < longest).all(dim=0)  # true for NaN, too
        if bool(bad.any()):
            advice = "lower learning_rate, or lower kld_weight"
            raise FixedPointDivergence(step, int(bad.nonzero()[0]), weight, advice, history)
        zeros = torch.zeros_like(lengths[0])
        mean_moves = zeros if config.fit == "covariances" else lengths[0]
        variance_moves = zeros if config.fit == "means" else lengths[-1]
        history.append(record(step, StepReport(kl.detach(), mean_moves, variance_moves, bad)))
        converged = history[-1].residual <= config.tolerance
        if converged or step == config.steps:
            break
        rate = config.learning_rate * learning_rate_factor(config.policy, (step - 1) / config.steps)
        for x, gradient in zip(fitted, gradients, strict=True):
            x.sub_(gradient, alpha=rate)
    return FixedPointResult(
        means,
        variances.detach().expand_as(means).contiguous(),
        converged,
        step,
        history[-1].residual,
        history,
    )


GRADIENT = Prior(
    lambda means, variances, settings, _: solution(
        settings, gradient_descent(means, variances, settings)
    ),
    option="gradient",
    defaults=GradientDescentConfig(),
    min_classes=2,
)
