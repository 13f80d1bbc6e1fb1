from __future__ import annotations

import dataclasses
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from nfaug.gaussians.baselines import (
    GradientDescentConfig,
    Policy,
    data_gaussians,
    gradient_descent,
    learning_rate_factor,
    random_gaussians,
)
from nfaug.gaussians.fixed_point.solver import (
    FixedPointConfig,
    FixedPointDivergence,
    objective,
    solve,
)

POLICIES = get_args(Policy)


def draw(classes: int = 5, dim: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return means, torch.rand(classes, dim, generator=generator, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_fall_from_one_to_zero(policy: Policy) -> None:
    values = [learning_rate_factor(policy, p / 100) for p in range(101)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values, reverse=True)
    for p, value in enumerate(values[1:-1], start=1):
        if policy.startswith("sub"):
            assert value > 1 - p / 100
        elif policy.startswith("super"):
            assert value < 1 - p / 100
        else:
            assert value == 1 - p / 100


@pytest.mark.parametrize("fit", ["means", "covariances", "both"])
def test_it_descends_to_where_the_fixed_point_is(fit: str) -> None:
    data = draw()
    config = GradientDescentConfig(
        fit=fit, kld_weight=1.0, policy="sublinear_v1", learning_rate=0.2, tolerance=1e-4
    )
    result = gradient_descent(*data, config)
    assert result.converged
    assert result.residual == result.history[-1].residual <= 1e-4
    assert len(result.history) == result.iterations
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
def test_every_policy_shrinks_the_gradient(policy: Policy) -> None:
    data = draw()
    config = GradientDescentConfig(
        kld_weight=1.0, policy=policy, learning_rate=0.2, steps=50, tolerance=1e-9
    )
    result = gradient_descent(*data, config)
    assert result.iterations == 50
    assert not result.converged
    assert result.residual < 0.5 * result.history[0].residual
    # And what it reports is the gradient of the objective at what it returns.
    point = result.means.requires_grad_(), result.variances
    (gradient,) = torch.autograd.grad(objective(*data, *point, 1.0), point[0])
    longest = float(gradient.norm(dim=1).max())
    assert result.history[-1].mean_residual == pytest.approx(longest)


def test_with_identity_covariances_a_step_is_a_damped_fixed_point_step() -> None:
    data = draw()
    config = GradientDescentConfig(
        fit="means", kld_weight=30.0, learning_rate=0.3, steps=2, tolerance=1e-9
    )
    result = gradient_descent(*data, config)
    expected = solve(
        *data, FixedPointConfig(kld_weight=30.0, damping=0.3, max_iterations=2, tolerance=1e-9)
    )
    torch.testing.assert_close(result.means, expected.means)
    assert torch.equal(result.variances, torch.ones_like(data[1]))
    assert result.residual == pytest.approx(expected.residual)


def test_variances_stay_within_bounds() -> None:
    data = draw()
    config = GradientDescentConfig(kld_weight=30.0, variance_bounds=(0.4, 1.2), learning_rate=0.2)
    result = gradient_descent(*data, config)
    assert ((result.variances > 0.4) & (result.variances < 1.2)).all()
    assert not result.variances.requires_grad
    assert not result.means.requires_grad


def test_inputs_are_left_alone() -> None:
    data = draw()
    copies = [x.clone() for x in data]
    for fit in ("means", "covariances", "both"):
        result = gradient_descent(*data, GradientDescentConfig(fit=fit, kld_weight=1.0, steps=3))
        result.means.zero_()
        result.variances.zero_()
    for x in data_gaussians(*data):
        x.zero_()
    assert all(torch.equal(x, copy) for x, copy in zip(data, copies, strict=True))


def test_divergence() -> None:
    means, variances = draw()
    config = GradientDescentConfig(kld_weight=1.0, learning_rate=50.0)
    with pytest.raises(FixedPointDivergence, match="lower learning_rate, or lower kld_weight"):
        gradient_descent(means, variances, config)


def test_data_gaussians() -> None:
    means, variances = draw()
    found = data_gaussians(means.float(), variances.float())
    torch.testing.assert_close(found[0], means, rtol=1e-6, atol=0)
    assert found[1].dtype == torch.float64
    with pytest.raises(ValueError, match="data variances must be positive"):
        data_gaussians(means, -variances)


def test_random_gaussians() -> None:
    means, variances = random_gaussians(
        10, 1000, scale=3.0, generator=torch.Generator().manual_seed(0)
    )
    assert means.shape == variances.shape == (10, 1000)
    assert float(means.std()) == pytest.approx(3, rel=0.03)
    assert torch.equal(variances, torch.ones_like(means))
    again, _ = random_gaussians(10, 1000, scale=3.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(means, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fit": "x"}, "fit must be one of 'means', 'covariances', 'both', got 'x'"),
        ({"kernel": "x"}, "kernel must be one of 'forward', 'mean', got 'x'"),
        ({"policy": "x"}, "policy must be one of 'sublinear_v1', .*, got 'x'"),
        ({"kld_weight": -1.0}, "kld_weight must be finite and at least 0, or None, got -1.0"),
        ({"alpha": math.nan}, "alpha must be positive and finite, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"tolerance": -1.0}, "tolerance must be positive and finite, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"variance_bounds": (1.0, 1.0)}, r"0 <= low < high, finite, got \(1.0, 1.0\)"),
    ],
)
def test_bad_config(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientDescentConfig(**arguments)  # type: ignore[arg-type]


def test_bad_data() -> None:
    means, variances = draw()
    with pytest.raises(ValueError, match="at least 2 classes"):
        gradient_descent(means[:1], variances[:1])
    with pytest.raises(ValueError, match="data means of class 0 are not finite"):
        gradient_descent(means * math.nan, variances)
    with pytest.raises(ValueError, match="class 0 has 1 training samples"):
        gradient_descent(means, variances, counts=torch.ones(5))
    with pytest.raises(ValueError, match="at least 1, got 0 and 3"):
        random_gaussians(0, 3)
    with pytest.raises(ValueError, match="scale must be positive and finite, got -1"):
        random_gaussians(2, 3, scale=-1)
    config = GradientDescentConfig()
    assert config.weight(11, 64) == FixedPointConfig().weight(11, 64)
    assert dataclasses.replace(config, kld_weight=2.0).weight(11, 64) == 2.0
