from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from nfaug.classes.gaussians import ClassGaussians
from nfaug.flows.codec import to_flow
from nfaug.flows.config import BACKBONES
from nfaug.flows.flow import Flow, FlowConfig, Recompute
from nfaug.flows.layers import ActNorm, Layer, Squeeze
from nfaug.flows.mef import MatrixExpBackbone
from nfaug.flows.networks import DisableTF32

TINY = FlowConfig(channels=2, image_size=(7, 8), steps=(2, 1), blocks=(1, 1), width=(6, 6))
NEW_SETTINGS = ("squeeze", "max_scale")  # checkpoints of the first version lack them
LOW_RANK = dataclasses.replace(TINY, low_rank_above=4)
HAAR = dataclasses.replace(TINY, squeeze="haar", max_scale=20.0)


def perturbed(config: FlowConfig = TINY, amount: float = 0.1) -> Flow:
    torch.manual_seed(0)
    flow = Flow(config)
    flow.initialize(torch.rand(32, *config.shape) * 2 - 1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    flow.fit_terms()
    return flow


def images(count: int, config: FlowConfig = TINY) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, config.channels, *config.image_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def flow() -> Flow:
    return perturbed()


@pytest.fixture(scope="module")
def frozen(flow: Flow) -> Flow:
    return flow.freeze()


def extremes(config: FlowConfig) -> Tensor:
    """Black, white, one bright pixel, one dark pixel."""
    black = torch.zeros(1, config.channels, *config.image_size, dtype=torch.uint8)
    bright = black.clone()
    bright[..., 3, 3] = 255
    return torch.cat([black, 255 - black, bright, 255 - bright])


@pytest.mark.parametrize("config", [TINY, LOW_RANK, HAAR], ids=["full", "low rank", "haar"])
def test_round_trip_is_exact_in_8_bits(config: FlowConfig) -> None:
    flow = perturbed(config)
    batch = torch.cat([images(60), extremes(config)])
    with torch.no_grad():
        for form in (flow, flow.freeze()):
            z, logdet = form.encode(batch)
            assert z.shape == (64, *config.shape)
            assert logdet.shape == (64,)
            assert torch.equal(form.decode(z), batch)


def test_decode_without_quantising(frozen: Flow) -> None:
    with torch.no_grad():
        z = frozen.encode(images(3))[0]
        floats = frozen.decode(z, quantize=False)
    assert torch.allclose(floats, images(3) / 255, atol=1e-4)


def test_batch_size_changes_nothing(frozen: Flow) -> None:
    batch = images(256)
    with torch.no_grad():
        z, logdet = frozen.encode(batch)
        for row in (0, 100, 255):
            alone, alone_logdet = frozen.encode(batch[row : row + 1])
            assert torch.allclose(alone, z[row : row + 1], atol=1e-5)
            assert torch.allclose(alone_logdet, logdet[row : row + 1], rtol=1e-5)
            assert torch.equal(frozen.decode(alone), frozen.decode(z)[row : row + 1])


def test_an_empty_batch_passes(frozen: Flow, flow: Flow) -> None:
    with torch.no_grad():
        for form in (flow, frozen):
            z, logdet = form.encode(images(0))
            assert z.shape == (0, *TINY.shape)
            assert logdet.shape == (0,)
            assert form.decode(z).shape == images(0).shape


def test_noise_shifts_the_levels(flow: Flow) -> None:
    batch = images(2)
    noise = torch.rand(2, *TINY.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        half = flow.encode(batch)[0]
        assert torch.equal(flow.encode(batch, 0.5)[0], half)
        assert not torch.equal(flow.encode(batch, noise)[0], half)
        assert torch.equal(flow.encode(batch.float())[0], half)


def log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).flatten(1).sum(1)


def test_log_prob(flow: Flow) -> None:
    batch, labels = images(5), torch.tensor([0, 1, 1, 0, 1])
    noise = torch.rand(5, *TINY.shape)
    means, variances = torch.randn(2, TINY.dim), torch.rand(2, TINY.dim) + 0.5
    gaussians = ClassGaussians(means, variances)
    with torch.no_grad():
        z, logdet = flow.encode(batch, noise)
        standard = flow.log_prob(batch, noise=noise)
        own = flow.log_prob(batch, gaussians, labels, noise=noise)
        every = flow.log_prob(batch, gaussians, noise=noise)
        middle = flow.log_prob(batch)
    expected = log_normal(z, torch.zeros(()), torch.ones(())) + logdet
    assert torch.allclose(standard, expected, rtol=1e-5)
    expected = log_normal(z.flatten(1), means[labels], variances[labels]) + logdet
    assert torch.allclose(own, expected, rtol=1e-5)
    assert every.shape == (5, 2)
    assert torch.allclose(every[torch.arange(5), labels], own, rtol=1e-5)
    assert not torch.allclose(middle, standard, rtol=1e-5)


def test_sample(flow: Flow) -> None:
    drawn = [flow.sample(3, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert drawn[0].dtype == torch.uint8
    assert drawn[0].shape == (3, 2, 7, 8)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    z = torch.randn(3, *TINY.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(drawn[0], flow.decode(z))
        mode = flow.decode(torch.zeros(1, *TINY.shape))
    assert torch.equal(flow.sample(2, temperature=0), mode.expand(2, -1, -1, -1))
    assert flow.sample(0).shape == (0, 2, 7, 8)


@pytest.mark.parametrize("low_rank_above", [24, 4])
def test_parameter_count_and_names(low_rank_above: int) -> None:
    config = dataclasses.replace(TINY, low_rank_above=low_rank_above)
    state = Flow(config).state_dict()
    assert sum(value.numel() for value in state.values()) == config.parameter_count
    assert len(state) == config.tensor_count
    step = {name for name in state if name.startswith("blocks.1.0.")}
    net = "blocks.1.0.couplinglayer.net."
    convolutions = ["layers.0.", *(f"layers.1.conv{i}." for i in (1, 2, 3))]
    assert step == {
        *(f"blocks.1.0.{name}" for name in ("actnorm.scale", "actnorm.shift", "conv1x1.weight")),
        *(f"blocks.1.0.couplinglayer.{name}" for name in ("scale", "shift", "rescale", "reshift")),
        *(
            f"{net}{convolution}{name}"
            for convolution in convolutions
            for name in ("conv.weight", "norm.scale", "norm.shift")
        ),
        *(f"{net}out_layer.{name}" for name in ("weight", "bias")),
    }


def test_the_papers_size() -> None:
    config = FlowConfig()
    assert config.parameter_count == pytest.approx(42.8e6, rel=1e-3)
    assert config.shape == (3, 32, 32)
    with torch.device("meta"):
        assert "42.82 M parameters" in repr(Flow(config))


def test_summary_of_the_architecture() -> None:
    assert TINY.summary() == {
        "backbone": "mef",
        "levels": 2,
        "steps, blocks, width per level": "(2, 1), (1, 1), (6, 6)",
    }
    assert HAAR.summary()["squeeze"] == "haar"
    assert HAAR.summary()["largest ActNorm scale"] == 20.0
    assert FlowConfig(backbone="identity").summary() == {"backbone": "identity"}


class Doubling(Layer):
    """z = 2v."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * x, (self.factor.log() * x[0].numel()).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z / self.factor, (-self.factor.log() * z[0].numel()).expand(len(z))


class DoublingBackbone(MatrixExpBackbone):
    settings = ("steps",)

    def check_settings(self, config: FlowConfig) -> None:
        assert config.steps

    def build(self, config: FlowConfig) -> torch.nn.ModuleList:
        levels = (torch.nn.ModuleList(Doubling() for _ in range(n)) for n in config.steps)
        return torch.nn.ModuleList(levels)

    def parameter_count(self, config: FlowConfig) -> int:
        return sum(config.steps)

    tensor_count = parameter_count


def test_a_new_backbone_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(BACKBONES, "doubling", DoublingBackbone())
    flow = Flow(FlowConfig(1, (4, 4), steps=(2,), backbone="doubling"))
    batch = images(3, flow.config)
    with torch.no_grad():
        z, logdet = flow.encode(batch)
    assert torch.equal(Squeeze()(z)[0], 4 * Squeeze()(to_flow(batch))[0])
    assert torch.allclose(logdet, torch.full((3,), 32 * math.log(2)))
    saved = Checkpoint(flow, CheckpointConfig(flow.config)).save(tmp_path / "flow")
    loaded = load(saved)
    assert loaded.config.flow == flow.config
    with torch.no_grad():
        assert torch.equal(loaded.flow.decode(z), batch)
    with pytest.raises(ValueError, match="rank"):
        dataclasses.replace(flow.config, rank=2)


def test_config_round_trip() -> None:
    assert FlowConfig.from_dict(TINY.to_dict()) == TINY
    as_json = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in TINY.to_dict().items()
    }
    assert FlowConfig.from_dict(as_json) == TINY
    old = {name: TINY.to_dict()[name] for name in TINY.to_dict() if name not in NEW_SETTINGS}
    assert FlowConfig.from_dict(old) == TINY
    assert TINY.size == (8, 8)
    assert TINY.dim == 2 * 8 * 8
    assert TINY.image_dim == 2 * 7 * 8


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"depth": 3}, "depth"),
        ({"backbone": "glow"}, "glow"),
        ({"steps": (2,)}, "blocks"),
        ({"steps": (), "blocks": (), "width": ()}, "steps"),
        ({"steps": 4}, "steps"),
        ({"steps": None}, "None"),
        ({"image_size": (32,)}, "image_size"),
        ({"channels": 0}, "channels"),
        ({"channels": True}, "channels"),
        ({"width": (6.0, 6)}, "width"),
        ({"blocks": (-1, 1)}, "blocks"),
        ({"padded_size": (10, 8)}, "multiples"),
        ({"padded_size": (4, 8)}, "smaller"),
        ({"padded_size": 8}, "padded_size"),
        ({"bound": 0}, "bound"),
        ({"bound": float("nan")}, "nan"),
        ({"bound": "2"}, "'2'"),
        ({"image_size": (2**20, 2**20)}, "values"),
        ({"width": (10**6, 6)}, "parameters"),
        ({"steps": (10**6, 1), "width": (1, 1)}, "tensors"),
        ({"steps": (1,) * 11, "blocks": (0,) * 11, "width": (1,) * 11}, "levels"),
        ({"rank": 0}, "rank"),
        ({"low_rank_above": -1}, "low_rank_above"),
        ({"max_scale": 1.0}, "max_scale"),
        ({"squeeze": "wavelet"}, "wavelet"),
    ],
)
def test_wrong_configurations(change: dict[str, Any], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        FlowConfig.from_dict({**TINY.to_dict(), **change})


@pytest.mark.parametrize(
    ("call", "token"),
    [
        (lambda f: f(torch.zeros(1, 2, 7, 8)), r"\(1, 2, 7, 8\)"),
        (lambda f: f.inverse(torch.zeros(2, 8, 8)), r"\(2, 8, 8\)"),
        (lambda f: f.decode(torch.zeros(1, 1, 8, 8)), r"\(1, 1, 8, 8\)"),
        (lambda f: f.initialize(torch.zeros(1, 1)), r"\(1, 1\)"),
        (lambda f: f.encode(torch.zeros(1, 3, 7, 8)), r"\(1, 3, 7, 8\)"),
        (lambda f: f.encode(torch.zeros(2, 7, 8)), r"\(2, 7, 8\)"),
        (lambda f: f.encode(images(1).long()), "int64"),
        (lambda f: f.log_prob(images(1), labels=torch.zeros(1)), "labels"),
        (lambda f: f.sample(-1), "-1"),
        (lambda f: f.sample(1, temperature=float("nan")), "nan"),
    ],
)
def test_wrong_input(flow: Flow, call: Callable[[Flow], object], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        call(flow)


def test_from_tensors_takes_weights_over(flow: Flow) -> None:
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    loaded = Flow.from_tensors(TINY, state)
    batch = images(2)
    with torch.no_grad():
        assert torch.equal(loaded.encode(batch)[0], flow.encode(batch)[0])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    name, parameter = next(iter(loaded.named_parameters()))
    assert parameter.data_ptr() == state[name].data_ptr()
    assert loaded.device == torch.device("cpu")
    assert loaded.dtype == torch.float32


def test_from_tensors_reads_half_precision(flow: Flow) -> None:
    loaded = Flow.from_tensors(TINY, {k: v.half() for k, v in flow.state_dict().items()})
    assert loaded.dtype == torch.float32


def test_from_tensors_lists_all_that_is_wrong_at_once(flow: Flow) -> None:
    state = flow.state_dict()
    del state["blocks.0.0.actnorm.scale"], state["blocks.1.0.actnorm.shift"]
    state["blocks.9.0.actnorm.scale"] = torch.zeros(1)
    state["blocks.0.1.conv1x1.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="Missing") as error:
        Flow.from_tensors(TINY, state)
    for part in (
        '"blocks.0.0.actnorm.scale", "blocks.1.0.actnorm.shift"',
        'Unexpected key(s) in state_dict: "blocks.9.0.actnorm.scale"',
        "size mismatch for blocks.0.1.conv1x1.weight",
    ):
        assert part in str(error.value)
    state["blocks.0.1.couplinglayer.scale"] = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"blocks\.0\.1\.couplinglayer\.scale"):
        Flow.from_tensors(TINY, state)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_from_tensors_refuses_weights_that_are_not_finite(flow: Flow, value: float) -> None:
    state = copy.deepcopy(flow.state_dict())
    state["blocks.0.1.actnorm.shift"][0, 0, 0] = value
    with pytest.raises(ValueError, match=r"blocks\.0\.1\.actnorm\.shift$"):
        Flow.from_tensors(TINY, state)


def test_from_tensors_takes_large_finite_weights(flow: Flow) -> None:
    state = copy.deepcopy(flow.state_dict())
    state["blocks.0.1.actnorm.shift"].fill_(3e38)  # their sum overflows
    Flow.from_tensors(TINY, state)


def test_freezing_leaves_the_flow_alone(flow: Flow) -> None:
    before = copy.deepcopy(flow.state_dict())
    frozen = flow.freeze()
    assert not list(frozen.parameters())
    assert not frozen.training
    assert all(parameter.requires_grad for parameter in flow.parameters())
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name])


def test_freezing_shares_no_memory() -> None:
    """Not even in float64 on the CPU, in which the folded weights are computed."""
    flow = perturbed().double()
    frozen = flow.freeze()
    again = frozen.freeze()

    def memory(flow: Flow) -> set[int]:
        tensors = itertools.chain(flow.parameters(), flow.buffers())
        return {x.untyped_storage().data_ptr() for x in tensors if x.numel()}

    assert memory(flow).isdisjoint(memory(frozen))
    assert memory(frozen).isdisjoint(memory(again))
    assert len(memory(again)) == len(memory(frozen)) > 10


@pytest.mark.parametrize("inside", [False, True])
def test_loading_large_exponents_lengthens_the_series(inside: bool) -> None:
    large = perturbed()
    with torch.no_grad():
        for coupling in large.couplings():
            coupling.rescale.fill_(1.5)  # far beyond `config.bound`
    state = large.state_dict()
    other = copy.deepcopy(Flow(TINY))
    if inside:  # as a part of another module, such as a LightningModule
        nn.ModuleDict({"flow": other}).load_state_dict({f"flow.{k}": v for k, v in state.items()})
    else:
        other.load_state_dict(state)
    expected = Flow.from_tensors(TINY, state)
    x = torch.rand(4, *TINY.shape) * 2 - 1
    assert torch.equal(other(x)[0], expected(x)[0])
    assert [c.bound for c in other.couplings()] == [c.bound for c in expected.couplings()]
    assert min(c.bound for c in other.couplings()) > TINY.bound
    before = [(c.bound, c.terms, c.terms64) for c in other.couplings()]
    with pytest.raises(ValueError, match="norm"):
        other.load_state_dict({k: v + 1e3 * ("rescale" in k) for k, v in state.items()})
    other.load_state_dict(state)
    assert [(c.bound, c.terms, c.terms64) for c in other.couplings()] == before
    pickle.loads(pickle.dumps(other))


def test_a_frozen_flow_can_be_copied_moved_and_frozen_again(frozen: Flow) -> None:
    z = torch.randn(2, *TINY.shape)
    v = frozen.inverse(z)[0]
    for other in (copy.deepcopy(frozen), frozen.freeze()):
        assert torch.equal(other.inverse(z)[0], v)
    double = copy.deepcopy(frozen).double()
    assert double.dtype == torch.float64
    assert torch.allclose(double.inverse(z.double())[0], v.double(), atol=1e-5)


def test_gradients_pass_through_a_frozen_flow(flow: Flow, frozen: Flow) -> None:
    z = torch.randn(2, *TINY.shape)
    grads = []
    for form in (flow, frozen):
        point = z.clone().requires_grad_()
        value, logdet = form.inverse(point)
        (value.square().sum() + logdet.sum()).backward()
        grads.append(point.grad)
    assert grads[0] is not None
    assert grads[1] is not None
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-3)


def test_recomputing_activations_gives_the_same_gradients(flow: Flow) -> None:
    v = torch.rand(4, *TINY.shape) * 2 - 1
    grads = []
    ways: tuple[Recompute, ...] = ("none", "steps", "blocks")
    for recompute in ways:
        form = copy.deepcopy(flow)
        form.recompute = recompute
        assert all(c.net.recompute == (recompute == "blocks") for c in form.couplings())
        z, logdet = form(v)
        (z.square().sum() / 2 - logdet.sum()).backward()
        grads.append([parameter.grad for parameter in form.parameters()])
    assert all(torch.equal(a, b) for grad in grads[1:] for a, b in zip(grads[0], grad, strict=True))


def test_bfloat16_changes_training_steps_alone(flow: Flow) -> None:
    v = torch.rand(4, *TINY.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    half = copy.deepcopy(flow)
    half.bf16 = True
    assert all(coupling.net.bf16 for coupling in half.couplings())
    grads = []
    for form in (flow, half):
        z, logdet = form(v)
        (z.square().sum() / 2 - logdet.sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in form.parameters() if p.grad is not None]))
    assert not torch.equal(*grads)
    assert torch.cosine_similarity(*grads, dim=0) > 0.9
    with torch.no_grad():
        assert torch.equal(flow(v)[0], half(v)[0])


def test_tf32_is_off_inside_and_as_it_was_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn: Any = torch.backends.cudnn

    def tf32() -> bool:
        return cudnn.conv.fp32_precision != "ieee" if hasattr(cudnn, "conv") else cudnn.allow_tf32

    for before in (True, False):
        monkeypatch.setattr(cudnn, "allow_tf32", before)
        with DisableTF32(torch.device("cuda")):
            assert not tf32()
        assert cudnn.allow_tf32 == before
        with DisableTF32(torch.device("cpu")):
            assert cudnn.allow_tf32 == before


def test_autocast_does_not_reach_encode_and_decode(flow: Flow) -> None:
    frozen, batch = flow.freeze(), images(4)
    with torch.no_grad():
        z = frozen.encode(batch)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(frozen.encode(batch)[0], z)
            assert torch.equal(frozen.decode(z), batch)
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert torch.is_autocast_enabled("cpu")


def test_compiles_to_one_graph(flow: Flow) -> None:
    frozen, batch = flow.freeze(), images(3)
    with torch.no_grad():
        z, logdet = frozen.encode(batch)
        encode = torch.compile(frozen.encode, fullgraph=True, backend="aot_eager")
        decode = torch.compile(frozen.decode, fullgraph=True, backend="aot_eager")
        compiled, compiled_logdet = encode(batch)
        assert torch.allclose(compiled, z, atol=1e-5)
        assert torch.allclose(compiled_logdet, logdet, rtol=1e-5)
        assert torch.equal(decode(z), batch)


def test_training_compiles_to_one_graph() -> None:
    config = FlowConfig(channels=1, image_size=(4, 4), steps=(1,), blocks=(0,), width=(3,))
    v = torch.rand(2, *config.shape) * 2 - 1
    step = torch.compile(perturbed(config), fullgraph=True, backend="aot_eager")
    z, logdet = step(v)
    (z.square().sum() - logdet.sum()).backward()
    assert all(parameter.grad is not None for parameter in step.parameters())


def test_clipping_keeps_training_inside_the_series(flow: Flow) -> None:
    form = copy.deepcopy(flow)
    for coupling in form.couplings():
        coupling.rescale.data.fill_(100)
    form.clip_()
    for coupling in form.couplings():
        assert coupling.exponent_bound() == pytest.approx(coupling.bound, rel=1e-5)
    form.fit_terms()


def test_clipping_bounds_the_scales_of_every_actnorm() -> None:
    flow = perturbed(HAAR)
    scales = [module for module in flow.modules() if isinstance(module, ActNorm)]
    for layer in scales:
        layer.scale.data.fill_(100)
    flow.clip_()
    assert len(scales) == 3
    for layer in scales:
        assert layer.conditioning()["scale_max"] == pytest.approx(20)
