from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from tools.released import fixed_point
from torch import Tensor

from lab.priors import objective
from nfaug.classes.fixed_point import (
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    solve,
)
from nfaug.classes.fixed_point.config import REFERENCE_WEIGHT, read_record
from nfaug.classes.fixed_point.rules import (
    class_kernel,
    mean_update,
    proposition1_update,
    released_update,
)
from nfaug.classes.gaussians import pairwise_kl

CLASSES, DIM = 5, 7
EXACT = {"rtol": 1e-10, "atol": 0.0}


def draw(
    classes: int = CLASSES, dim: int = DIM, seed: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Means around a common offset, and variances between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator, dtype=torch.float64) * spread + 3
    return means, torch.rand(classes, dim, generator=generator, dtype=torch.float64) + 0.5


# The equations as printed, with tensors of size K x K x d: [y, y'] is the pair of Eqs. 5-7.


def direct_kl(mu: Tensor, v: Tensor) -> Tensor:
    squares = (mu[:, None] - mu[None]).square()
    ratios = (v[:, None] + squares) / v[None]
    return 0.5 * (ratios - 1 + v[None].log() - v[:, None].log()).sum(dim=2)


def direct_means(m: Tensor, mu: Tensor, v: Tensor, kernel: Tensor, c: float) -> Tensor:
    pull = kernel[:, :, None] / v[None] + kernel.T[:, :, None] / v[:, None]
    return m + c * v * (pull * (mu[:, None] - mu[None])).sum(dim=1)


def direct_a_and_b(
    data: tuple[Tensor, Tensor], mu: Tensor, v: Tensor, kernel: Tensor, c: float, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    """A and B before any splitting, and the sum of K_y'y."""
    m, s = data
    out, back = kernel[:, :, None], kernel.T[:, :, None]
    squares = (mu[:, None] - mu[None]).square()
    if rule == "released":  # for each y', the sum over its squares to all classes
        squares = squares.sum(dim=1)[None]
    scatter = squares + v[None]
    a = (1 + c * (out - back).sum(dim=1)) / v + c * (back * scatter).sum(dim=1) / v**2
    b = s + c * v**2 * (out / v[None]).sum(dim=1)
    if rule == "proposition1":
        b = b + (m - mu) ** 2
    return a, b, back.sum(dim=1)


@pytest.fixture
def state() -> tuple[Tensor, Tensor]:
    return draw(seed=1)


@pytest.fixture
def kernel(state: tuple[Tensor, Tensor]) -> Tensor:
    return class_kernel(pairwise_kl(*state))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", ["forward", "mean"])
def test_kernels(state: tuple[Tensor, Tensor], kind: Any, alpha: float) -> None:
    kl = direct_kl(*state)
    off = ~torch.eye(CLASSES, dtype=torch.bool)
    pi = kl if kind == "forward" else kl[off].mean()  # Eqs. 9 and 10
    expected = torch.where(off, torch.exp(-kl / (pi * alpha)) / (pi * alpha), 0.0)
    torch.testing.assert_close(class_kernel(pairwise_kl(*state), kind, alpha), expected, **EXACT)
    if kind == "forward":
        torch.testing.assert_close(expected[off], math.exp(-1 / alpha) / (alpha * kl[off]))


def test_mean_update(state: tuple[Tensor, Tensor], kernel: Tensor) -> None:
    m, _ = draw()
    means, variances = state
    expected = direct_means(m, means, variances, kernel, 30.0)
    torch.testing.assert_close(mean_update(m, means, variances, kernel, 30.0), expected, **EXACT)
    # With equal variances in all coordinates, the isotropic step is the same.
    equal = variances[:, :1].expand_as(means)
    expected = direct_means(m, means, equal, kernel, 30.0)
    found = mean_update(m, means, equal, kernel, 30.0, isotropic=True)
    torch.testing.assert_close(found, expected, **EXACT)


# The released implementation's own values.

GOLDEN_FITS = {"both": "both", "means": "means", "variances": "covariances"}


@pytest.mark.parametrize("update", ["released", "no_class_sum"])
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("name", GOLDEN_FITS)
@pytest.mark.parametrize("weight", [300, 3000])
def test_golden_values(update: str, isotropic: bool, name: str, weight: int) -> None:
    """One step, two steps and the fixed point, where damping changes nothing."""
    golden = fixed_point()
    data = golden["data_means"], golden["data_variances"]
    plain = FixedPointConfig(
        fit=GOLDEN_FITS[name],
        kld_weight=weight / 30,  # lambda / (K (K - 1)) with 6 classes
        update=update,
        isotropic_mean_step=isotropic,
        damping=1.0,
        tolerance=1e-12,
    )
    class_sum = int(update == "released")
    prefix = f"lambda{weight}.sum{class_sum}.iso{int(isotropic)}.{name}"
    # The result is that before the last evaluation.
    cases = {
        "step1": dataclasses.replace(plain, max_iterations=2),
        "step2": dataclasses.replace(plain, max_iterations=3),
        "end": dataclasses.replace(plain, max_iterations=2000),
    }
    damped = dataclasses.replace(cases["end"], damping=0.5)
    for when, config in [*cases.items(), ("end", damped)]:
        result = solve(*data, config)
        assert result.converged == (when == "end")
        for part in ("means", "variances"):
            expected = golden[f"{prefix}.{when}.{part}"]
            torch.testing.assert_close(getattr(result, part), expected, rtol=0, atol=1e-10)


def test_the_sum_over_classes_and_the_isotropic_step_change_the_fixed_point() -> None:
    """By as much as docs/explanation/class-gaussians.md says, at c = 3000 / 30."""
    golden = fixed_point()
    with_sum = golden["lambda3000.sum1.iso1.both.step1.variances"]
    without = golden["lambda3000.sum0.iso1.both.step1.variances"]
    assert float((with_sum / without - 1).abs().max()) == pytest.approx(0.56, abs=0.005)
    with_sum = golden["lambda3000.sum1.iso1.both.end.variances"]
    without = golden["lambda3000.sum0.iso1.both.end.variances"]
    assert float(with_sum.mean()) == pytest.approx(0.50, abs=0.005)
    assert float(without.mean()) == pytest.approx(0.75, abs=0.005)
    isotropic = golden["lambda3000.sum1.iso1.both.end.means"]
    other = golden["lambda3000.sum1.iso0.both.end.means"]
    assert float((isotropic - other).abs().max()) > 0.1


def test_proposition1(state: tuple[Tensor, Tensor], kernel: Tensor) -> None:
    data, (means, v) = draw(), state
    a, b, received = direct_a_and_b(data, means, v, kernel, 30.0, "proposition1")
    expected = ((b + 30 * v * received) / (a + 30 * received / v)).sqrt()
    found = proposition1_update(*data, means, v, kernel, 30.0)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("rule", ["released", "no_class_sum"])
@pytest.mark.parametrize("wide", [False, True])
def test_released_stays_positive_where_a_does_not(
    state: tuple[Tensor, Tensor], wide: bool, rule: str
) -> None:
    data, (means, v) = draw(), state
    if wide:
        v = v.clone()
        v[0, :3] = 400.0
    kernel = class_kernel(pairwise_kl(means, v))
    a, b, received = direct_a_and_b(data, means, v, kernel, 30.0, rule)
    assert bool((a < 0).any()) == wide
    extra = 30 * v * received
    extra = torch.where(a * v**2 < extra / 9, extra, 0.0)
    assert bool(extra.any()) == wide
    expected = ((b + extra * v**2) / (a * v**2 + extra)).sqrt()
    found = released_update(data[1], means, v, kernel, 30.0, class_sum=rule == "released")
    torch.testing.assert_close(found, expected, **EXACT)


def test_objective(state: tuple[Tensor, Tensor]) -> None:
    (m, s), (means, v) = draw(), state
    kl = direct_kl(means, v)
    off = ~torch.eye(CLASSES, dtype=torch.bool)
    nll = 0.5 * ((2 * math.pi * v).log() + (s + (m - means) ** 2) / v).sum()
    expected = nll + 30 * torch.exp(-kl[off] / (kl[off].mean() * 4.0)).sum()
    found = objective(m, s, means, v, 30.0, pi="mean", alpha=4.0)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("width", [1, DIM])
def test_forces_are_the_gradient_of_the_objective(width: int) -> None:
    """M(mu) - mu = -v dJ/dmu, at any point, and not only where both vanish."""
    m, s = draw()
    means, variances = draw(seed=1)
    means.requires_grad_()
    value = objective(m, s, means, variances[:, :width], 30.0, pi="mean")
    (gradient,) = torch.autograd.grad(value, means)
    variances, means = variances[:, :width], means.detach()
    kernel = class_kernel(pairwise_kl(means, variances), "mean")
    move = mean_update(m, means, variances, kernel, 30.0) - means
    torch.testing.assert_close(move, -variances * gradient, **EXACT)


# Solves.


@pytest.mark.parametrize("damping", [0.5, 1.0])
@pytest.mark.parametrize("update", ["proposition1", "released", "no_class_sum"])
def test_without_the_divergence_term(update: str, damping: float) -> None:
    """Proposition 1 returns the data's gaussians; the released rules s^(1/3), not s."""
    m, s = draw()
    config = FixedPointConfig(
        fit="both", kld_weight=0, update=update, damping=damping, tolerance=1e-12
    )
    result = solve(m, s, config)
    assert result.converged
    torch.testing.assert_close(result.means, m, rtol=1e-9, atol=0)
    expected = s if update == "proposition1" else s ** (1 / 3)
    torch.testing.assert_close(result.variances, expected, rtol=1e-9, atol=0)


def gradients(
    data: tuple[Tensor, Tensor], result: FixedPointResult, config: FixedPointConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of J for means and variances; those of its likelihood alone, as a scale."""
    point = (result.means.clone().requires_grad_(), result.variances.clone().requires_grad_())
    found = []
    for weight in (config.weight(*data[0].shape), 0.0):
        value = objective(*data, *point, weight, pi=config.kernel, alpha=config.alpha)
        found += torch.autograd.grad(value, point)
    return found[0], found[1], found[2], found[3]


@pytest.mark.parametrize(
    ("kernel", "alpha", "weight"), [("forward", 10.0, 1.0), ("forward", 1.0, 1.0), ("mean", 10, 2)]
)
@pytest.mark.parametrize("fit", ["means", "covariances", "both"])
def test_a_solution_is_stationary(fit: str, kernel: str, alpha: float, weight: float) -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(
        fit=fit,
        kld_weight=weight,
        alpha=alpha,
        kernel=kernel,
        update="proposition1",
        isotropic_mean_step=False,
        damping=0.9,
        tolerance=1e-9,
        max_iterations=1000,
    )
    result = solve(*data, config)
    assert result.converged
    assert (result.means - data[0]).norm() + (result.variances - data[1]).norm() > 1e-2
    means, variances, means_scale, variances_scale = gradients(data, result, config)
    if fit != "covariances":
        assert means.norm() < 1e-6 * means_scale.norm()
    if fit != "means":
        assert variances.norm() < 1e-6 * variances_scale.norm()


def test_bounds_are_stationary_where_they_do_not_bind() -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(
        fit="both",
        kld_weight=10,
        update="proposition1",
        isotropic_mean_step=False,
        damping=0.9,
        tolerance=1e-9,
        max_iterations=1000,
        variance_bounds=(0.2, 1.1),
    )
    result = solve(*data, config)
    assert result.converged
    low = torch.isclose(result.variances, torch.tensor(0.2, dtype=torch.float64), atol=1e-8)
    high = torch.isclose(result.variances, torch.tensor(1.1, dtype=torch.float64), atol=1e-8)
    assert low.any()
    assert high.any()
    assert ((result.variances >= 0.2 - 1e-8) & (result.variances <= 1.1 + 1e-8)).all()
    means, variances, means_scale, variances_scale = gradients(data, result, config)
    assert means.norm() < 1e-6 * means_scale.norm()
    assert variances[~(low | high)].norm() < 1e-6 * variances_scale.norm()
    # Where a bound binds, the objective falls only beyond it.
    assert (variances[low] > 0).all()
    assert (variances[high] < 0).all()


def test_the_isotropic_step_is_stationary_for_isotropic_variances_only() -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(
        fit="both", kld_weight=1.0, update="proposition1", damping=0.9, tolerance=1e-9
    )
    means, _, scale, _ = gradients(data, solve(*data, config), config)
    assert means.norm() > 1e-3 * scale.norm()
    # With identity covariances there is no difference between the two steps.
    config = FixedPointConfig(kld_weight=100.0, tolerance=1e-9, max_iterations=5000)
    other = dataclasses.replace(config, isotropic_mean_step=False)
    torch.testing.assert_close(solve(*data, config).means, solve(*data, other).means)


def test_nearly_equal_means_converge_only_when_damped() -> None:
    means, variances = draw(10, 200, spread=1e-4)
    damped = solve(means, variances, FixedPointConfig(kld_weight=3333))
    assert damped.converged
    assert damped.iterations < 60
    assert float(_off_diagonal(pairwise_kl(damped.means, damped.variances)).min()) > 1000
    undamped = solve(means, variances, FixedPointConfig(kld_weight=3333, damping=1.0))
    assert not undamped.converged
    assert undamped.iterations == 300
    assert undamped.residual > 1
    assert undamped.means.isfinite().all()


def test_equal_means_are_finite() -> None:
    means, variances = draw()
    means[1] = means[0]
    result = solve(means, variances, FixedPointConfig(kld_weight=100))
    assert result.converged
    assert result.means.isfinite().all()


def test_what_each_fit_keeps() -> None:
    data = draw(spread=2.0)
    copies = [x.clone() for x in data]
    results = {
        fit: solve(*data, FixedPointConfig(fit=fit, kld_weight=3.0))
        for fit in ("means", "covariances", "both")
    }
    assert torch.equal(results["means"].variances, torch.ones_like(data[1]))
    assert torch.equal(results["covariances"].means, data[0])
    for result in results.values():
        assert result.means.dtype == result.variances.dtype == torch.float64
        result.means.zero_()
        result.variances.zero_()
    assert all(torch.equal(x, copy) for x, copy in zip(data, copies, strict=True))


@pytest.mark.parametrize("update", ["released", "no_class_sum", "proposition1"])
@pytest.mark.parametrize("fit", ["means", "both"])
def test_damping_does_not_change_the_answer(fit: str, update: str) -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(
        fit=fit, kld_weight=1.0, update=update, tolerance=1e-9, max_iterations=1000
    )
    result = solve(*data, config)
    other = solve(*data, dataclasses.replace(config, damping=0.9))
    assert result.converged
    assert other.converged
    torch.testing.assert_close(other.means, result.means, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(other.variances, result.variances, rtol=1e-7, atol=1e-7)


def test_symmetries() -> None:
    """Moving the origin moves the means; permuting the classes permutes the result."""
    data = draw(spread=2.0)
    config = FixedPointConfig(fit="both", kld_weight=1.0, tolerance=1e-8)
    result = solve(*data, config)
    moved = solve(data[0] + 1000, data[1], config)
    torch.testing.assert_close(moved.means - 1000, result.means, rtol=1e-8, atol=1e-8)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = solve(data[0][order], data[1][order], config)
    torch.testing.assert_close(permuted.variances, result.variances[order])


def test_the_residual_is_that_of_the_result() -> None:
    data = draw(spread=2.0)
    config = FixedPointConfig(fit="both", kld_weight=1.0, tolerance=1e-3)
    result = solve(*data, config)
    assert result.residual <= 1e-3
    sooner = dataclasses.replace(config, max_iterations=result.iterations - 1)
    assert solve(*data, sooner).residual > 1e-3
    # The residual is that of the undamped step at the very values that came back.
    state = result.means, result.variances
    kernel = class_kernel(pairwise_kl(*state))
    moves = (
        mean_update(data[0], *state, kernel, 1.0, isotropic=True) - state[0],
        released_update(data[1], *state, kernel, 1.0) - state[1],
    )
    residual = max(float(move.norm(dim=1).max()) for move in moves)
    assert result.residual == pytest.approx(residual, rel=1e-9)


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def test_the_default_weight_keeps_the_distance_between_classes() -> None:
    # The released weights of means and variances, in 3,072 dimensions.
    assert FixedPointConfig().weight(10, 3072) == pytest.approx(3333, rel=1e-3)
    assert FixedPointConfig().weight(100, 3072) == pytest.approx(303, rel=1e-3)
    assert FixedPointConfig().weight(10, 64) == pytest.approx(69.4, rel=1e-3)
    assert FixedPointConfig(kld_weight=7).weight(100, 64) == 7
    for classes, dim in ((4, 100), (40, 100), (10, 1024)):
        means, variances = draw(classes, dim, spread=1e-3)
        distances = torch.cdist(*[solve(means, variances, FixedPointConfig()).means] * 2)
        squared = float(_off_diagonal(distances).square().mean()) / dim
        pull = 4 * math.exp(-1 / 10) / 10
        assert squared == pytest.approx(pull * REFERENCE_WEIGHT * classes / (classes - 1), 0.02)


def test_more_coordinates_that_all_classes_share_change_nothing() -> None:
    """Distances between classes are all that the means need: rotate, pad and move them."""
    m, s = draw(4, 3, spread=2.0)
    config = FixedPointConfig(kld_weight=5.0, tolerance=1e-6, max_iterations=500)
    expected = solve(m, s, config)
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    found = solve(m @ rotation[:3] + 7, torch.ones(4, 40).double(), config)
    assert found.iterations == expected.iterations > 5
    torch.testing.assert_close(found.means, expected.means @ rotation[:3] + 7, **EXACT)


# Records.


def test_records_of_earlier_versions_have_the_rule_of_their_time() -> None:
    """Version 1 named the rule without the sum over classes "released"."""
    old = {"kind": "fpi", "fit": "both", "update": "released"}
    assert read_record(old) == {**old, "update": "no_class_sum"}
    assert read_record(read_record(old)) == read_record(old)
    assert old["update"] == "released"
    new = {**old, "rules_version": 2}
    assert read_record(new) == new
    assert read_record({"kind": "data"}) == {"kind": "data"}


# Divergence.


def test_divergence_says_where_and_what_to_change() -> None:
    data = draw(10, 50)
    config = FixedPointConfig(fit="both", kld_weight=300, update="proposition1")
    with pytest.raises(FixedPointDivergence, match="diverged") as caught:
        solve(*data, config)
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert error.kld_weight == 300
    assert 1 <= error.iteration <= config.max_iterations
    for cure in ("lower kld_weight", "set variance_bounds", "update='released'", "fit='means'"):
        assert cure in str(error)
    assert f"class {error.class_index} " in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    # Each of the cures works.
    for change in (
        {"kld_weight": 0.1},
        {"variance_bounds": (0.1, 10.0)},
        {"update": "released"},
        {"update": "no_class_sum"},
        {"fit": "means"},
    ):
        result = solve(*data, dataclasses.replace(config, **change))  # type: ignore[arg-type]
        assert result.means.isfinite().all()
        assert result.variances.isfinite().all()


def test_a_weight_beyond_floating_point_diverges() -> None:
    with pytest.raises(FixedPointDivergence, match=r"1e\+307"):
        solve(*draw(), FixedPointConfig(kld_weight=1e307))


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "token"),
    [
        ({"fit": "all"}, "'all'"),
        ({"update": "x"}, "'x'"),
        ({"kld_weight": math.nan}, "kld_weight"),
        ({"alpha": math.inf}, "alpha"),
        ({"max_iterations": 2.5}, "max_iterations must be a whole number"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"damping": 1.5}, "1.5"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"variance_bounds": (2.0, 1.0)}, r"\(2.0, 1.0\)"),
    ],
)
def test_bad_config(arguments: dict[str, Any], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        FixedPointConfig(**arguments)
    assert FixedPointConfig(variance_bounds=[0.1, 10.0]).variance_bounds == (0.1, 10.0)  # JSON's


def changed(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[2, 3] = value
    return x


def test_bad_data() -> None:
    m, s = draw()
    cases = [
        ((m[:1], s[:1]), "got 1"),
        ((m[0], s), r"\(7,\)"),
        ((m.long(), s), "int64"),
        ((m, s[:, :6]), r"\(5, 6\)"),
        ((changed(m, math.nan), s), "class 2"),
        ((changed(m, math.inf), s), "class 2"),
        ((m, changed(s, 0.0)), "positive"),
        ((m, changed(s, -1.0)), "positive"),
        ((m, changed(s, math.nan)), "class 2"),
        ((m, changed(s, math.inf)), "class 2"),
    ]
    for arguments, token in cases:
        with pytest.raises(ValueError, match=token):
            solve(*arguments)
