from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from nfaug.classes.gaussians import ClassGaussians, pairwise_kl


def make(classes: int = 5, dim: int = 7, offset: float = 0.0, seed: int = 0) -> ClassGaussians:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator) * 3 + offset
    variances = torch.rand(classes, dim, generator=generator) + 0.1
    return ClassGaussians(means, variances, torch.arange(2, 2 + classes))


def reference(gaussians: ClassGaussians) -> list[Independent]:
    means, variances = gaussians.means.double(), gaussians.variances.double()
    return [Independent(Normal(m, v.sqrt()), 1) for m, v in zip(means, variances, strict=True)]


# The offset would cancel uncentred squares.
@pytest.mark.parametrize(("dim", "offset"), [(7, 0.0), (2500, 0.0), (7, 1e4)])
def test_log_prob_against_torch_distributions(dim: int, offset: float) -> None:
    gaussians = make(dim=dim, offset=offset)
    z = gaussians.means.double()[[0, 3, 3, 1]] + torch.randn(4, dim, dtype=torch.float64)
    expected = torch.stack([normal.log_prob(z) for normal in reference(gaussians)], dim=1)
    torch.testing.assert_close(gaussians.log_prob(z), expected, rtol=1e-11, atol=0)
    labels = torch.tensor([4, 0, 3, 1])
    torch.testing.assert_close(
        gaussians.log_prob(z, labels), expected[range(4), labels], rtol=1e-12, atol=0
    )


def test_log_prob_shapes_and_dtypes() -> None:
    gaussians = make(dim=12)
    z = torch.randn(3, 3, 2, 2)
    assert gaussians.log_prob(z).shape == (3, 5)
    assert gaussians.log_prob(z, torch.tensor([0, 1, 2])).shape == (3,)
    assert torch.equal(gaussians.log_prob(z), gaussians.log_prob(z.flatten(1)))
    for dtype, out in ((torch.float32,) * 2, (torch.float64,) * 2, (torch.bfloat16, torch.float32)):
        assert gaussians.log_prob(z.to(dtype)).dtype == out
        assert gaussians.log_prob(z.to(dtype), torch.tensor([0, 1, 2])).dtype == out
    assert gaussians.log_prob(z[:0]).shape == (0, 5)
    assert gaussians.log_prob(z[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_permuting_the_batch_permutes_the_result() -> None:
    gaussians = make()
    z, labels = torch.randn(11, 7), torch.arange(11) % 5
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gaussians.log_prob(z[order]), gaussians.log_prob(z)[order])
    assert torch.equal(
        gaussians.log_prob(z[order], labels[order]), gaussians.log_prob(z, labels)[order]
    )


def test_gradient_of_log_prob() -> None:
    gaussians = make()
    z = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(5)
    expected = -(z - gaussians.means) / gaussians.variances
    for log_prob in (gaussians.log_prob(z, labels), gaussians.log_prob(z).diagonal()):
        (gradient,) = torch.autograd.grad(log_prob.sum(), z)
        torch.testing.assert_close(gradient, expected)


def test_sample() -> None:
    gaussians = make(dim=3)
    labels = torch.arange(5).repeat(20_000)
    samples = gaussians.sample(labels, generator=torch.Generator().manual_seed(0))
    grouped = samples.view(-1, 5, 3)
    torch.testing.assert_close(grouped.mean(dim=0), gaussians.means, rtol=0, atol=0.03)
    torch.testing.assert_close(grouped.var(dim=0), gaussians.variances, rtol=0.05, atol=0)
    again = gaussians.sample(labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)
    half = gaussians.sample(labels, temperature=0.5, generator=torch.Generator().manual_seed(0))
    means = gaussians.means[labels]
    torch.testing.assert_close(half - means, (samples - means) / 2)
    assert torch.equal(gaussians.sample(torch.tensor([2]), temperature=0), gaussians.means[2:3])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.uint64, torch.int8, torch.int16, torch.int32]
)
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    """Also one label of each class as uint8, by which torch would index as by a mask."""
    gaussians = make()
    labels = torch.arange(5)
    z = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gaussians.sample(labels.to(dtype), temperature=0), gaussians.means)
    assert torch.equal(gaussians.log_prob(z, labels.to(dtype)), gaussians.log_prob(z, labels))


@pytest.mark.parametrize("dim", [7, 2500])
def test_pairwise_kl_against_torch_distributions(dim: int) -> None:
    gaussians = make(dim=dim, offset=50.0)
    normals = reference(gaussians)
    expected = torch.stack([torch.stack([kl_divergence(p, q) for q in normals]) for p in normals])
    kl = pairwise_kl(gaussians.means, gaussians.variances)
    torch.testing.assert_close(kl, expected, rtol=1e-11, atol=0)
    assert kl.dtype == torch.float64
    assert not kl.diagonal().any()
    isotropic = gaussians.variances[:, :1]
    full = pairwise_kl(gaussians.means, isotropic.expand(5, dim))
    assert torch.equal(pairwise_kl(gaussians.means, isotropic), full)


@pytest.mark.parametrize("width", [1, 7])
def test_pairwise_kl_is_differentiable(width: int) -> None:
    means = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    variances = (torch.rand(4, width, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(pairwise_kl, (means, variances))


def test_equal_gaussians_have_no_divergence() -> None:
    means = torch.full((3, 4000), 1000.0)
    kl = pairwise_kl(means, torch.full((3, 4000), 0.3))
    assert 0 <= kl.min() <= kl.max() < 1e-9


def test_state() -> None:
    gaussians = make()
    assert (gaussians.num_classes, gaussians.dim) == (5, 7)
    assert "num_classes=5, dim=7" in repr(gaussians)
    assert list(gaussians.state_dict()) == ["means", "variances", "counts"]
    assert not list(gaussians.parameters())
    other = ClassGaussians(torch.zeros(5, 7), torch.ones(5, 7))
    assert not other.counts.any()
    other.load_state_dict(gaussians.state_dict())
    z = torch.randn(2, 7)
    assert torch.equal(other.log_prob(z), gaussians.log_prob(z))
    # The module has its own memory: what the caller does to the input does not reach it.
    means = torch.zeros(2, 3)
    frozen = ClassGaussians(means, torch.ones(2, 3))
    means += 1
    assert not frozen.means.any()


@pytest.mark.parametrize(
    ("arguments", "token"),
    [
        ((torch.zeros(2, 3), torch.ones(2, 4)), r"\(2, 4\)"),
        ((torch.zeros(0, 3), torch.ones(0, 3)), r"\(0, 3\)"),
        ((torch.zeros(2, 3), torch.ones(2, 3), torch.ones(3)), "counts"),
        ((torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1, -1])), "-1"),
        ((torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1e-322, 3]).double()), "float64"),
        ((torch.tensor([[0.0], [math.nan]]), torch.ones(2, 1)), "class 1"),
        ((torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])), "class 1"),
        ((torch.zeros(2, 1), torch.full((2, 1), 1e300, dtype=torch.float64)), "float32"),
    ],
)
def test_bad_gaussians(arguments: tuple[Tensor, ...], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        ClassGaussians(*arguments)


def test_bad_calls() -> None:
    gaussians = make()
    z = torch.zeros(2, 7)
    with pytest.raises(ValueError, match=r"\(2, 8\)"):
        gaussians.log_prob(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="int64"):
        gaussians.log_prob(torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        gaussians.log_prob(z, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="float32"):
        gaussians.log_prob(z, torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        gaussians.sample(torch.tensor([-1, 5]))
    with pytest.raises(ValueError, match="temperature"):
        gaussians.sample(torch.tensor([0]), temperature=-1)
