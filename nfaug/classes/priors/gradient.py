"""The prior "gradient": class gaussians by gradient descent (Baseline 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..fixed_point.config import FixedPointDivergence, FixedPointResult, GradientDescentConfig
from ..fixed_point.rules import objective
from ..fixed_point.solver import DIVERGENCE_RATIO, several_classes

__all__ = ["EXPONENTS", "gradient_descent"]

#: The exponent n of the learning rate's factor (1 - p)^n after a share p of the steps.
EXPONENTS = {"sublinear": 0.5, "linear": 1, "superlinear": 4}


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
    means = data[0].clone().requires_grad_(config.fit != "covariances")
    # Slightly inside the bounds, where theta is finite.
    theta = ((data[1] - low) / (high - low)).clamp(1e-3, 1 - 1e-3).logit()
    theta.requires_grad_(config.fit != "means")
    optimizer = torch.optim.SGD(
        [x for x in (means, theta) if x.requires_grad], config.learning_rate
    )
    exponent = EXPONENTS[config.policy]
    schedule = LambdaLR(optimizer, lambda step: (1 - step / config.steps) ** exponent)
    longest = DIVERGENCE_RATIO  # times the first residual, if that is above 1
    for step in range(1, config.steps + 1):
        variances = torch.ones_like(theta)
        if config.fit != "means":
            variances = low + (high - low) * theta.sigmoid()
        value = objective(*data, means, variances, weight, pi=config.kernel, alpha=config.alpha)
        optimizer.zero_grad()
        value.backward()
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in (means, theta)]
        lengths = [torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients]
        good = (lengths[0] < longest) & (lengths[1] < longest)  # false for NaN
        if not bool(good.all()):
            worst, advice = int((~good).nonzero()[0]), "lower learning_rate, or lower kld_weight"
            raise FixedPointDivergence(step, worst, weight, advice)
        residual = float(torch.cat(lengths).max())
        if step == 1:
            longest *= max(1.0, residual)
        if residual <= config.tolerance or step == config.steps:
            break
        optimizer.step()
        schedule.step()
    found = means.detach(), variances.detach()
    return FixedPointResult(*found, residual <= config.tolerance, step, residual)
