"""The priors of the paper's tables: gradient descent on the objective, and random means."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
import torch
from tools.nfa import TensorImages
from torch import Tensor

from lab.priors import (
    GradientDescentConfig,
    Policy,
    gradient_descent,
    objective,
    random_gaussians,
    register,
)
from nfaug.classes.fixed_point import FixedPointConfig, FixedPointDivergence, solve
from nfaug.classes.fixed_point.rules import class_kernel, mean_update
from nfaug.classes.gaussians import pairwise_kl
from nfaug.classes.priors import PRIORS
from nfaug.training import TrainConfig, train
from nfaug.training.config import TrainPriorConfig

POLICIES = get_args(Policy)
SLOW = GradientDescentConfig(kld_weight=1.0, learning_rate=0.02, tolerance=1e4)


def draw(classes: int = 5, dim: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return means, torch.rand(classes, dim, generator=generator, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("fit", ["means", "covariances", "both"])
def test_it_descends_to_where_the_fixed_point_is(fit: str) -> None:
    data = draw()
    config = GradientDescentConfig(
        fit=fit, kld_weight=1.0, policy="sublinear", learning_rate=0.2, tolerance=1e-4
    )
    result = gradient_descent(*data, config)
    assert result.converged
    assert result.residual <= 1e-4
    expected = solve(
        *data,
        FixedPointConfig(
            fit=fit,
            kld_weight=1.0,
            update="proposition1",
            isotropic_mean_step=False,
            tolerance=1e-6,
        ),
    )
    torch.testing.assert_close(result.means, expected.means, rtol=0, atol=1e-3)
    torch.testing.assert_close(result.variances, expected.variances, rtol=0, atol=1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_learning_rate_decays_by_the_policy(policy: Policy) -> None:
    """With identity covariances a step is a damped fixed-point step of that learning rate."""
    m, s = draw()
    config = GradientDescentConfig(
        fit="means", kld_weight=30.0, policy=policy, learning_rate=0.3, steps=4, tolerance=1e-9
    )
    result = gradient_descent(m, s, config)
    means = m
    for share in (0, 1 / 4, 2 / 4):
        kernel = class_kernel(pairwise_kl(means, torch.ones_like(m)))
        rate = 0.3 * (1 - share) ** {"sublinear": 0.5, "linear": 1, "superlinear": 4}[policy]
        move = mean_update(m, means, torch.ones(5, 1).double(), kernel, 30.0) - means
        means = means + rate * move
    torch.testing.assert_close(result.means, means)
    assert torch.equal(result.variances, torch.ones_like(s))
    assert (result.iterations, result.converged) == (4, False)


def test_the_residual_is_the_gradient_at_the_result() -> None:
    data = draw()
    config = GradientDescentConfig(kld_weight=1.0, learning_rate=0.2, steps=50, tolerance=1e-9)
    result = gradient_descent(*data, config)
    first = gradient_descent(*data, dataclasses.replace(config, steps=1))
    assert result.residual < 0.5 * first.residual
    low, high = config.variance_bounds
    theta = ((result.variances - low) / (high - low)).logit().requires_grad_()
    point = result.means.requires_grad_(), low + (high - low) * theta.sigmoid()
    gradients = torch.autograd.grad(objective(*data, *point, 1.0), (point[0], theta))
    longest = max(float(gradient.norm(dim=1).max()) for gradient in gradients)
    assert result.residual == pytest.approx(longest)


def test_variances_stay_within_bounds() -> None:
    data = draw()
    config = GradientDescentConfig(kld_weight=30.0, variance_bounds=(0.4, 1.2), learning_rate=0.2)
    result = gradient_descent(*data, config)
    assert ((result.variances > 0.4) & (result.variances < 1.2)).all()
    assert not result.variances.requires_grad
    assert not result.means.requires_grad
    assert all(torch.equal(x, copy) for x, copy in zip(data, draw(), strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off(mode: Any) -> None:
    config = GradientDescentConfig(kld_weight=1.0, steps=3)
    expected = gradient_descent(*draw(), config)
    with mode():
        result = gradient_descent(*draw(), config)
    assert torch.equal(result.means, expected.means)
    assert torch.equal(result.variances, expected.variances)


def test_divergence() -> None:
    means, variances = draw()
    config = GradientDescentConfig(kld_weight=1.0, learning_rate=50.0)
    with pytest.raises(FixedPointDivergence, match="learning_rate"):
        gradient_descent(means, variances, config)


def test_random_gaussians() -> None:
    def drawn(scale: float) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return random_gaussians(torch.Size([10, 1000]), scale, generator)[:2]

    means, variances = drawn(3.0)
    assert means.shape == variances.shape == (10, 1000)
    assert float(means.std()) == pytest.approx(3, rel=0.03)
    assert torch.equal(variances, torch.ones_like(means))
    assert torch.equal(means, drawn(3.0)[0])
    with pytest.raises(ValueError, match="scale"):
        drawn(-1.0)


@pytest.mark.parametrize(
    ("arguments", "token"),
    [
        ({"fit": "x"}, "fit"),
        ({"kernel": "x"}, "kernel"),
        ({"policy": "x"}, "'sublinear'"),
        ({"kld_weight": -1.0}, "kld_weight"),
        ({"alpha": math.nan}, "alpha"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"steps": 0}, "steps"),
        ({"variance_bounds": (1.0, 1.0)}, "variance_bounds"),
    ],
)
def test_bad_config(arguments: dict[str, Any], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        GradientDescentConfig(**arguments)


def test_bad_data() -> None:
    means, variances = draw()
    with pytest.raises(ValueError, match="got 1"):
        gradient_descent(means[:1], variances[:1])
    with pytest.raises(ValueError, match="class 0"):
        gradient_descent(means * math.nan, variances)
    config = GradientDescentConfig()
    assert config.weight(11, 64) == FixedPointConfig().weight(11, 64)
    assert dataclasses.replace(config, kld_weight=2.0).weight(11, 64) == 2.0


@pytest.mark.parametrize("settings", [SLOW, 2.0], ids=["gradient", "random"])
def test_a_flow_is_trained_under_them(
    settings: Any,
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRIORS, "paper", PRIORS["data"])  # which is undone at the end
    register("paper", settings)
    config = dataclasses.replace(tiny_config, epochs=2, prior=TrainPriorConfig(kind="paper"))
    gaussians = train(tiny_images, config=config, progress=False).checkpoint.config.gaussians
    assert gaussians["kind"] == "paper"
    json.dumps(gaussians, allow_nan=False)
