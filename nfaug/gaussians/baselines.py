"""What the fixed point is compared with: the paper's baselines for the class gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .fixed_point.config import default_weight
from .fixed_point.rules import class_nll, divergence_penalty
from .fixed_point.solver import (
    DIVERGENCE_RATIO,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
    check_counts,
    checked_gaussians,
    pairwise_kl,
)

__all__ = [
    "GradientDescentConfig",
    "data_gaussians",
    "gradient_descent",
    "learning_rate_factor",
    "random_gaussians",
]

Policy = Literal["sublinear_v1", "sublinear_v2", "linear", "superlinear_v1", "superlinear_v2"]


@dataclass(frozen=True)
class GradientDescentConfig:
    """Settings of Baseline 2: gradient descent on the objective of the fixed point.

    Args:
        fit: "means" (identity covariances), "covariances" (the data's means) or "both".
        kld_weight: c, as in ``FixedPointConfig``, with the same default.
        alpha: a, the softness of the kernel.
        kernel: "forward" (pi of Eq. 9) or "mean" (Eq. 10).
        policy: How the learning rate falls to 0: see `learning_rate_factor`.
        learning_rate: The rate of the first step. Where it is above twice the smallest variance,
            the likelihood alone makes the means oscillate and grow.
        steps: The number of steps over which the rate falls.
        tolerance: Stop when no class's gradient, for its means or for the parameters of its
            variances, is longer than this (L2 norm).
        variance_bounds: (low, high) of v = low + (high - low) * sigmoid(theta).

    Raises:
        ValueError: If a value is out of range.
    """

    fit: Literal["means", "covariances", "both"] = "both"
    kld_weight: float | None = None
    alpha: float = 10.0
    kernel: Literal["forward", "mean"] = "forward"
    policy: Policy = "linear"
    learning_rate: float = 0.1
    steps: int = 300
    tolerance: float = 0.1
    variance_bounds: tuple[float, float] = (0.1, 10.0)

    def __post_init__(self) -> None:
        choices = {
            "fit": ("means", "covariances", "both"),
            "kernel": ("forward", "mean"),
            "policy": get_args(Policy),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.kld_weight is not None and not 0 <= self.kld_weight < math.inf:
            raise ValueError(
                f"kld_weight must be finite and at least 0, or None, got {self.kld_weight}"
            )
        for name in ("alpha", "learning_rate", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        low, high = self.variance_bounds
        object.__setattr__(self, "variance_bounds", (low, high))  # JSON and YAML give a list
        if not 0 <= low < high < math.inf:
            raise ValueError(
                "variance_bounds must be (low, high) with 0 <= low < high, finite, got "
                f"{self.variance_bounds}"
            )

    def weight(self, num_classes: int, dim: int) -> float:
        """c for this number of classes in this dimension, the default resolved."""
        return default_weight(num_classes, dim) if self.kld_weight is None else self.kld_weight


def learning_rate_factor(policy: Policy, progress: float) -> float:
    r"""What the learning rate is multiplied by when a share p = ``progress`` of the steps is done.

    All five policies start at 1 and end at 0. Linear falls as 1 - p; sublinear ones fall more
    slowly at first, superlinear ones faster:

    ============== ======================
    sublinear_v1   :math:`\sqrt{1 - p}`
    sublinear_v2   :math:`\cos(\pi p / 2)`
    linear         :math:`1 - p`
    superlinear_v1 :math:`(1 - p)^2`
    superlinear_v2 :math:`(1 - p)^4`
    ============== ======================

    Table 1 of the paper names five such policies and leaves their formulas to a supplement that was
    not at hand, so these are this package's own.
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


def gradient_descent(
    data_means: Tensor,
    data_variances: Tensor,
    config: GradientDescentConfig | None = None,
    *,
    counts: Tensor | None = None,
) -> FixedPointResult:
    r"""Class gaussians by gradient descent on J, the objective of the fixed point (Baseline 2).

    It starts from the data's gaussians, as the fixed point does. Variances stay within bounds by
    :math:`v = low + (high - low)\,\sigma(\theta)`, and the gradient goes through this map. With
    identity covariances (fit "means") a step is exactly a fixed-point step damped by the learning
    rate; what differs is that the rate decays.

    Args:
        data_means: Class means of the latents, shape (K, d).
        data_variances: Class variances, shape (K, d), positive; projected into the bounds.
        config: Settings.
        counts: Training samples per class, shape (K,), only to refuse classes with fewer than two.

    Returns:
        Finite gaussians in float64. ``residual`` is the largest over classes of the L2 norm of the
        gradient of J at these values, for the means and for theta.

    Raises:
        ValueError: If an input is unfit, as in `nfaug.gaussians.fixed_point.solver.solve`.
        FixedPointDivergence: If a gradient grows without limit.
    """
    config = GradientDescentConfig() if config is None else config
    data = checked_gaussians(data_means, data_variances, "data")
    check_counts(counts, len(data_means))
    classes = len(data[0])
    weight = config.weight(*data[0].shape)
    means = data[0].clone()
    theta = _inverse_sigmoid(data[1], *config.variance_bounds)
    fitted = {"means": [means], "covariances": [theta], "both": [means, theta]}[config.fit]
    history: list[FixedPointStep] = []
    converged = False
    for step in range(1, config.steps + 1):
        for x in fitted:
            x.requires_grad_()
        variances = means.new_ones(classes, 1)
        if config.fit != "means":
            variances = _sigmoid(theta, *config.variance_bounds)
        kl = pairwise_kl(means, variances)
        objective = class_nll(*data, means, variances)
        objective = objective + weight * divergence_penalty(kl, config.kernel, config.alpha)
        gradients = torch.autograd.grad(objective, fitted)
        for x in fitted:
            x.requires_grad_(False)
        lengths = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients])
        longest = DIVERGENCE_RATIO * max(1.0, history[0].residual if history else 1.0)
        bad = ~(lengths < longest).all(dim=0)  # NaN is bad, too
        if bool(bad.any()):
            advice = "lower learning_rate, or lower kld_weight"
            raise FixedPointDivergence(step, int(bad.nonzero()[0]), weight, advice, history)
        history.append(_record(step, config.fit, lengths, kl.detach()))
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


def data_gaussians(data_means: Tensor, data_variances: Tensor) -> tuple[Tensor, Tensor]:
    """The data's own class means and variances (Baseline 1), checked, copied, in float64.

    They are the exact maximum-likelihood solution, and that of the fixed point at weight 0.

    Raises:
        ValueError: If a value is not finite or a variance is not positive.
    """
    means, variances = checked_gaussians(data_means, data_variances, "data")
    return means.clone(), variances.clone()


def random_gaussians(
    num_classes: int, dim: int, *, scale: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Fixed random means from N(0, scale^2) and identity covariances, both (K, d), float64.

    As in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025): the flow alone has to separate classes.

    Raises:
        ValueError: If a size is below 1 or the scale is not positive.
    """
    if num_classes < 1 or dim < 1:
        raise ValueError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    device = None if generator is None else generator.device
    noise = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64, device=device)
    return scale * noise, torch.ones_like(noise)


def _sigmoid(theta: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * theta.sigmoid()


def _inverse_sigmoid(variances: Tensor, low: float, high: float) -> Tensor:
    """The theta of given variances; those outside or at a bound start a thousandth inside it."""
    return ((variances - low) / (high - low)).clamp(1e-3, 1 - 1e-3).logit()


def _record(step: int, fit: str, lengths: Tensor, kl: Tensor) -> FixedPointStep:
    longest = lengths.amax(dim=1).tolist()
    others = kl[~torch.eye(len(kl), dtype=torch.bool, device=kl.device)]
    return FixedPointStep(
        step,
        mean_residual=0.0 if fit == "covariances" else longest[0],
        variance_residual=0.0 if fit == "means" else longest[-1],
        kl_min=float(others.min()),
        kl_mean=float(others.mean()),
    )
