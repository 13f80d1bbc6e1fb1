"""The contract of every layer and of whole flows, trainable and frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tools.device import pretended_gpu
from torch import Tensor

from nfaug.flows import networks
from nfaug.flows.attention import SelfAttention
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.layers import (
    ActNorm,
    HaarSqueeze,
    InvertibleConv1x1,
    Layer,
    Squeeze,
    Step,
    inverse_softplus,
)
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.mef_config import MefConfig
from nfaug.flows.networks import _LOG2_E, _SCRATCH, FoldedConv, _elu


def coupling(channels: int = 4, low_rank_above: int = 24, heads: int = 0) -> MatrixExpCoupling:
    rank = 3 if channels // 2 > low_rank_above else None
    return MatrixExpCoupling(channels, 5, 1, rank, attention_heads=heads)


def step(channels: int = 4) -> Step:
    return Step(
        actnorm=ActNorm((channels, 2, 4)),
        conv1x1=InvertibleConv1x1(channels),
        couplinglayer=coupling(channels, low_rank_above=1),
    )


MEF = MefConfig(steps=(2, 1), blocks=(1, 0), width=(4, 4), low_rank_above=4)
CONFIG = FlowConfig(2, (4, 4), MEF)
HAAR = FlowConfig(2, (4, 4), replace(MEF, squeeze="haar", max_scale=4.0))
ATTENTION = FlowConfig(2, (4, 4), replace(MEF, attention_heads=2))
LAYERS: dict[str, tuple[Callable[[], Layer], tuple[int, int, int]]] = {
    "Squeeze": (Squeeze, (3, 4, 2)),
    "HaarSqueeze": (HaarSqueeze, (3, 4, 2)),
    "ActNorm": (lambda: ActNorm((3, 4, 2)), (3, 4, 2)),
    "ActNorm, bounded": (lambda: ActNorm((3, 4, 2), 1.5), (3, 4, 2)),
    "InvertibleConv1x1": (lambda: InvertibleConv1x1(5), (5, 2, 2)),
    "MatrixExpCoupling": (coupling, (4, 2, 3)),
    "MatrixExpCoupling, odd": (lambda: coupling(5), (5, 2, 3)),
    "MatrixExpCoupling, low rank": (lambda: coupling(10, low_rank_above=4), (10, 2, 1)),
    "MatrixExpCoupling, attention": (lambda: coupling(4, heads=3), (4, 2, 3)),
    "MatrixExpCoupling, low rank, attention": (lambda: coupling(10, 4, heads=5), (10, 2, 1)),
    "MatrixExpCoupling, attention at one position": (lambda: coupling(4, heads=2), (4, 1, 1)),
    "Step": (step, (4, 2, 4)),
    "Flow": (lambda: Flow(CONFIG), CONFIG.shape),
    "Flow, haar": (lambda: Flow(HAAR), CONFIG.shape),
    "Flow, attention": (lambda: Flow(ATTENTION), CONFIG.shape),
}


def made(name: str, dtype: torch.dtype) -> tuple[Layer, Tensor]:
    """A layer with all its weights perturbed, and a batch for it."""
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = build().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    for module in layer.modules():
        if isinstance(module, MatrixExpCoupling):
            module.fit_terms()
    return layer, torch.randn(3, *shape, dtype=dtype)


@pytest.fixture(
    params=[(name, form) for name in LAYERS for form in ("to train", "frozen")], ids=str
)
def case(request: pytest.FixtureRequest) -> tuple[Layer, Tensor]:
    name, form = request.param
    layer, x = made(name, torch.float64)
    return (layer.freeze() if form == "frozen" else layer), x


def test_contract(case: tuple[Layer, Tensor]) -> None:
    layer, x = case
    z, logdet = layer(x)
    back, inverse_logdet = layer.inverse(z)
    assert logdet.shape == inverse_logdet.shape == (3,), layer
    assert torch.allclose(back, x, atol=1e-10), layer
    assert torch.allclose(logdet, -inverse_logdet, atol=1e-10), layer
    assert isinstance(layer, Squeeze) or not torch.allclose(z, x, atol=0.1), layer
    assert torch.equal(layer.map(x), z), layer
    assert torch.equal(layer.map_back(z), back), layer

    # Latents that are not those of an image.
    z = torch.randn_like(z)
    assert torch.allclose(layer(layer.inverse(z)[0])[0], z, atol=1e-9), layer

    # Permuting the batch permutes the result, and the batch size changes nothing.
    order = torch.tensor([2, 0, 1])
    shuffled, shuffled_logdet = layer(x[order])
    z, logdet = layer(x)
    assert torch.allclose(shuffled, z[order], atol=1e-12), layer
    assert torch.allclose(shuffled_logdet, logdet[order], atol=1e-12), layer
    alone, alone_logdet = layer(x[:1])
    assert torch.allclose(alone, z[:1], atol=1e-12), layer
    assert torch.allclose(alone_logdet, logdet[:1], atol=1e-12), layer


def test_logdet_is_the_jacobians(case: tuple[Layer, Tensor]) -> None:
    layer, x = case
    for function, point in ((layer, x[:1]), (layer.inverse, layer(x[:1])[0].detach())):
        _, logdet = function(point)
        jacobian = torch.autograd.functional.jacobian(
            lambda v, function=function: function(v)[0].flatten(), point
        )
        expected = torch.linalg.slogdet(jacobian.reshape(point.numel(), point.numel()))[1]
        assert torch.allclose(logdet, expected, atol=1e-9), layer


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_is_the_same_map_and_a_copy(name: str) -> None:
    layer, x = made(name, torch.float32)
    frozen = layer.freeze()
    z = layer(x)[0]
    for ours, theirs, point in ((frozen, layer, x), (frozen.inverse, layer.inverse, z)):
        for a, b in zip(ours(point), theirs(point), strict=True):
            assert torch.allclose(a, b, atol=2e-5, rtol=1e-5)
    before = frozen(x)[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert torch.equal(frozen(x)[0], before)
    assert torch.equal(frozen.freeze()(x)[0], before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_frozen_is_the_same_map_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    """Where couplings compute by rows, in fewer operations."""
    layer, x = made(name, dtype)
    frozen = layer.freeze()
    with torch.no_grad():
        z, logdet = frozen(x)
        back, inverse_logdet = frozen.inverse(z)
        with pretended_gpu() as gpu:
            there = copy.deepcopy(frozen).to(gpu)
            found = [*there(x.to(gpu)), *there.inverse(z.to(gpu))]
            assert torch.equal(there.map(x.to(gpu)), found[0])
            assert torch.equal(there.map_back(z.to(gpu)), found[2])
            found = [each.cpu() for each in found]
            assert there(x[:0].to(gpu))[0].shape == (0, *z.shape[1:])
            assert there.inverse(z[:0].to(gpu))[0].shape == (0, *x.shape[1:])
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for ours, theirs in zip(found, (z, logdet, back, inverse_logdet), strict=True):
        assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_order_of_folded_networks(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPUs compute in channels-last order, accelerators in the one that is set."""
    monkeypatch.setattr(networks, "ACCELERATOR_LAYOUT", layout)
    seen: list[tuple[Tensor, Tensor]] = []
    flow = Flow(FlowConfig(3, (8, 8), MefConfig(steps=(2,), blocks=(2,), width=(8,))))
    flow.initialize(torch.rand(8, 3, 8, 8) * 2 - 1)
    frozen = flow.freeze()
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    forward = FoldedConv.forward

    def noted(conv: FoldedConv, x: Tensor) -> Tensor:
        y = forward(conv, x)
        seen.append((x, conv.weight))
        return y

    monkeypatch.setattr(FoldedConv, "forward", noted)
    with torch.no_grad():
        here = frozen.latents(images)
        on_cpu = list(seen)
        seen.clear()
        with pretended_gpu() as gpu:
            there = copy.deepcopy(frozen).to(gpu).latents(images.to(gpu)).cpu()
    assert len(seen) == len(on_cpu) > 0
    for tensors, order in ((on_cpu, torch.channels_last), (seen, layout)):
        for x, weight in tensors:
            assert x.is_contiguous(memory_format=order)
            assert weight.stride() == weight.clone(memory_format=order).stride()
    assert torch.allclose(there, here, atol=2e-5)


def test_squeeze_puts_a_pixel_where_the_released_weights_expect_it() -> None:
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    z, _ = Squeeze()(x)
    assert z.shape == (1, 8, 2, 3)
    for fy in range(2):
        for fx in range(2):
            for c in range(2):
                assert torch.equal(z[0, (2 * fy + fx) * 2 + c], x[0, c, fy::2, fx::2])


def test_haar_squeeze_is_orthonormal_and_puts_the_mean_first() -> None:
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    z, logdet = HaarSqueeze()(x)
    assert torch.allclose(z.square().sum(), x.square().sum())
    assert torch.equal(logdet, torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(z[:, :2], 2 * torch.nn.functional.avg_pool2d(x, 2))
    blocks = x.unflatten(2, (2, 2)).unflatten(4, (3, 2))  # (B, C, h, fy, w, fx)
    signs = {1: (1, -1, 1, -1), 2: (1, 1, -1, -1), 3: (1, -1, -1, 1)}
    for group, (a, b, c, d) in signs.items():
        expected = a * blocks[:, :, :, 0, :, 0] + b * blocks[:, :, :, 0, :, 1]
        expected = expected + c * blocks[:, :, :, 1, :, 0] + d * blocks[:, :, :, 1, :, 1]
        assert torch.allclose(z[:, 2 * group : 2 * group + 2], expected / 2), group


def test_latents_of_a_haar_flow_keep_its_levels_apart() -> None:
    torch.manual_seed(0)
    flow = Flow(HAAR)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, *HAAR.shape)
    h = HaarSqueeze()(x)[0]
    for layer in flow.blocks[0]:
        h = layer(h)[0]
    coarse, fine = Squeeze()(flow(x)[0])[0].chunk(2, 1)
    assert torch.equal(fine, h.chunk(2, 1)[1])
    h = HaarSqueeze()(h.chunk(2, 1)[0])[0]
    for layer in flow.blocks[1]:
        h = layer(h)[0]
    assert torch.equal(Squeeze()(coarse)[0], h)


def scales(layer: ActNorm) -> tuple[float, float]:
    scale = torch.nn.functional.softplus(layer.scale)
    return scale.min().item(), scale.max().item()


def test_actnorm_scales_stay_bounded() -> None:
    layer = ActNorm((2, 2, 2), max_scale=3.0)
    x = torch.randn(50, 2, 2, 2)
    x[:, 0] = 0.25  # constant
    x[:, 1] *= 100
    layer.initialize(x)
    assert scales(layer) == pytest.approx((1 / 3, 3))
    with torch.no_grad():
        layer.scale[0].fill_(90)
        layer.scale[1].fill_(-90)
    layer.clip_()
    assert scales(layer) == pytest.approx((1 / 3, 3))
    free = ActNorm((2, 2, 2))
    free.initialize(x)
    before = free.scale.clone()
    free.clip_()
    assert torch.equal(free.scale, before)
    assert scales(free)[1] == pytest.approx(1000)


def test_actnorm_initialisation_standardises_every_position() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = ActNorm((3, 2, 2))
    x = torch.randn(500, 3, 2, 2, generator=generator) * 7 + torch.arange(12).reshape(3, 2, 2)
    z = layer.initialize(x)
    assert z.mean(0).abs().max() < 1e-4
    assert (z.std(0, unbiased=False) - 1).abs().max() < 1e-4
    assert torch.equal(z, layer(x)[0])


@pytest.mark.parametrize("y", [1e-4, 0.1, 1.0, 20.0, 1000.0])
def test_inverse_softplus_is_stable(y: float) -> None:
    value = inverse_softplus(torch.tensor(y))
    assert torch.nn.functional.softplus(value).item() == pytest.approx(y, rel=1e-3)


def test_coupling_starts_as_the_identity_and_keeps_the_first_half() -> None:
    layer = coupling(6)
    x = torch.randn(4, 6, 3, 3)
    layer.net.initialize(x[:, :3])
    z, logdet = layer(x)
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros(4))


def test_attention_follows_its_formula() -> None:
    """Position by position and head by head, with torch's group normalization."""
    torch.manual_seed(0)
    layer = SelfAttention(6, 3).double()
    x = torch.randn(2, 6, 2, 4, dtype=torch.float64) * 3 + 1
    assert torch.equal(layer(x), x), "the projection starts at zero"
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = x.clone()
    for b, normal in enumerate(layer.norm(x).flatten(2)):
        columns = layer.qkv(normal)
        attended = torch.empty(6, 8, dtype=torch.float64)
        for head in range(3):
            q, k, v = columns[6 * head : 6 * head + 6].split(2)
            for at in range(8):
                scores = torch.stack([(q[:, at] * k[:, to]).sum() for to in range(8)])
                share = (scores / 2**0.5).exp()
                attended[2 * head : 2 * head + 2, at] = v @ (share / share.sum())
        expected[b] += layer.proj_out(attended).view(6, 2, 4)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_network_initialisation_standardises_every_convolution() -> None:
    torch.manual_seed(0)
    net = MatrixExpCoupling(6, 8, 1).net
    x = torch.randn(64, 3, 8, 8) * 3 + 1
    net.initialize(x)
    first, block = net.layers
    h = first(x)
    assert h.mean((0, 2, 3)).abs().max() < 1e-4
    assert (h.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-4
    assert not block.conv3.norm.scale.any()
    assert not block.conv3.norm.shift.any()


@pytest.mark.parametrize("low_rank_above", [24, 2])
def test_clip_keeps_the_exponent_inside_the_series(low_rank_above: int) -> None:
    layer = coupling(8, low_rank_above)
    terms = layer.terms
    with torch.no_grad():
        layer.rescale.fill_(-40)
        layer.reshift.fill_(10)
    layer.clip_()
    assert layer.exponent_bound() == pytest.approx(layer.bound, rel=1e-5)
    assert (layer.rescale / layer.reshift).item() == pytest.approx(-4)
    before = layer.rescale.clone()
    layer.clip_()
    assert torch.allclose(layer.rescale, before, rtol=1e-6)
    assert layer.terms == terms


def test_diverged_scalars_are_refused() -> None:
    layer = coupling(8)
    with torch.no_grad():
        layer.rescale.fill_(50)
    with pytest.raises(ValueError, match="200"):
        layer.fit_terms()
    with pytest.raises(ValueError, match="200"):
        layer.freeze()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 4e-7), (torch.float64, 1e-15), (torch.bfloat16, 0.01)]
)
def test_frozen_elu_is_elu_on_scaled_activations(dtype: torch.dtype, tolerance: float) -> None:
    special = torch.tensor([-1e4, -87.0, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1.0, 87.0, 1e4])
    values = torch.cat([special, torch.randn(_SCRATCH, generator=torch.Generator().manual_seed(0))])
    scaled = (values[:, None, None, None] * _LOG2_E).to(dtype)
    expected = _LOG2_E * torch.nn.functional.elu(scaled.double() / _LOG2_E)
    fast = _elu(scaled.clone()).double()
    with_gradient = _elu(scaled.clone().requires_grad_() * 1).double()
    for result in (fast, with_gradient):
        assert ((result - expected).abs() <= tolerance * (1 + expected.abs())).all()

    broken = _elu(torch.tensor([torch.nan, torch.inf, -torch.inf]).view(1, 3, 1, 1)).flatten()
    assert broken[0].isnan()
    assert broken[1] == torch.inf
    assert broken[2] == pytest.approx(-_LOG2_E)
