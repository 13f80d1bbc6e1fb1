"""The prior "gradient": class gaussians by gradient descent (Baseline 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..fixed_point.config import (
    FixedPointDivergence,
    FixedPointResult,
    GradientDescentConfig,
    Policy,
)
from ..fixed_point.rules import objective
from ..fixed_point.solver import DIVERGENCE_RATIO, several_classes

__all__ = ["EXPONENTS", "gradient_descent"]

#: The exponent n of the learning rate's factor (1 - p)^n after a share p of the steps.
EXPONENTS: dict[Policy, float] = {"sublinear": 0.5, "linear": 1, "superlinear": 4}

_ADVICE = "lower learning_rate, or lower kld_weight"


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
