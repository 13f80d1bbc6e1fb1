"""Whole flows: exact round trips, densities, weights, freezing, training modes, compilation."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.mef_config import MefConfig
from nfaug.flows.networks import DisableTF32

MEF = MefConfig(steps=(2, 1), blocks=(1, 1), width=(6, 6))
TINY = FlowConfig(2, (7, 8), MEF)
LOW_RANK = replace(TINY, backbone=replace(MEF, low_rank_above=4))
ATTENTION = replace(TINY, backbone=replace(MEF, attention_heads=2))
HAAR = replace(TINY, backbone=replace(MEF, squeeze="haar", max_scale=20.0))


def couplings(flow: Flow) -> list[MatrixExpCoupling]:
    return [module for module in flow.modules() if isinstance(module, MatrixExpCoupling)]


def perturbed(config: FlowConfig = TINY, amount: float = 0.1) -> Flow:
    torch.manual_seed(0)
    flow = Flow(config)
    flow.initialize(torch.rand(32, *config.shape) * 2 - 1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    for coupling in couplings(flow):
        coupling.fit_terms()
    return flow


def images(count: int, config: FlowConfig = TINY) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, config.channels, *config.image_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def extremes(config: FlowConfig) -> Tensor:
    """Black, white, one bright pixel, one dark pixel."""
    black = torch.zeros(1, config.channels, *config.image_size, dtype=torch.uint8)
    bright = black.clone()
    bright[..., 3, 3] = 255
    return torch.cat([black, 255 - black, bright, 255 - bright])


@pytest.fixture(scope="module", params=[TINY, ATTENTION], ids=["plain", "attention"])
def flow(request: pytest.FixtureRequest) -> Flow:
    return perturbed(request.param)


@pytest.fixture(scope="module")
def frozen(flow: Flow) -> Flow:
    return flow.freeze()


@pytest.mark.parametrize(
    "config", [TINY, LOW_RANK, HAAR, ATTENTION], ids=["full", "low rank", "haar", "attention"]
)
def test_round_trip_is_exact_in_8_bits(config: FlowConfig) -> None:
    flow = perturbed(config)
    batch = torch.cat([images(60), extremes(config)])
    with torch.no_grad():
        for form in (flow, flow.freeze()):
            z, logdet = form.encode(batch)
            assert z.shape == (64, *config.shape)
            assert logdet.shape == (64,)
            assert torch.equal(form.decode(z), batch)
            floats = form.decode(z, quantize=False)
            assert torch.allclose(floats, batch / 255, atol=1e-4)


def test_batch_size_changes_nothing(flow: Flow, frozen: Flow) -> None:
    batch = images(256)
    with torch.no_grad():
        z, logdet = frozen.encode(batch)
        for row in (0, 100, 255):
            alone, alone_logdet = frozen.encode(batch[row : row + 1])
            assert torch.allclose(alone, z[row : row + 1], atol=1e-5)
            assert torch.allclose(alone_logdet, logdet[row : row + 1], rtol=1e-5)
            assert torch.equal(frozen.decode(alone), frozen.decode(z)[row : row + 1])
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


@pytest.mark.parametrize(
    ("call", "token"),
    [
        (lambda f: f(torch.zeros(1, 2, 7, 8)), r"\(1, 2, 7, 8\)"),
        (lambda f: f.inverse(torch.zeros(2, 8, 8)), r"\(2, 8, 8\)"),
        (lambda f: f.decode(torch.zeros(1, 1, 8, 8)), r"\(1, 1, 8, 8\)"),
        (lambda f: f.initialize(torch.zeros(1, 1)), r"\(1, 1\)"),
        (lambda f: f.encode(torch.zeros(1, 3, 7, 8)), r"\(1, 3, 7, 8\)"),
        (lambda f: f.encode(images(1).long()), "int64"),
    ],
)
def test_wrong_input(flow: Flow, call: Callable[[Flow], object], token: str) -> None:
    with pytest.raises(ValueError, match=token):
        call(flow)


# Weights


def test_from_tensors_takes_weights_over(flow: Flow) -> None:
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    loaded = Flow.from_tensors(flow.config, state)
    batch = images(2)
    with torch.no_grad():
        assert torch.equal(loaded.encode(batch)[0], flow.encode(batch)[0])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    name, parameter = next(iter(loaded.named_parameters()))
    assert parameter.data_ptr() == state[name].data_ptr()
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    half = Flow.from_tensors(flow.config, {k: v.half() for k, v in state.items()})
    assert half.dtype == torch.float32
    state["blocks.0.1.actnorm.shift"].fill_(3e38)  # finite, and their sum overflows
    Flow.from_tensors(flow.config, state)


def test_from_tensors_lists_all_that_is_wrong_at_once(flow: Flow) -> None:
    state = flow.state_dict()
    del state["blocks.0.0.actnorm.scale"], state["blocks.1.0.actnorm.shift"]
    state["blocks.9.0.actnorm.scale"] = torch.zeros(1)
    state["blocks.0.1.conv1x1.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="Missing") as error:
        Flow.from_tensors(flow.config, state)
    for part in ("0.0.actnorm.scale", "1.0.actnorm.shift", "9.0.actnorm.scale", "0.1.conv1x1"):
        assert part in str(error.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_from_tensors_refuses_weights_that_are_not_finite(flow: Flow, value: float) -> None:
    state = copy.deepcopy(flow.state_dict())
    state["blocks.0.1.actnorm.shift"][0, 0, 0] = value
    with pytest.raises(ValueError, match=r"blocks\.0\.1\.actnorm\.shift"):
        Flow.from_tensors(flow.config, state)


@pytest.mark.parametrize("inside", [False, True])
def test_loading_large_exponents_lengthens_the_series(inside: bool) -> None:
    large = perturbed()
    with torch.no_grad():
        for coupling in couplings(large):
            coupling.rescale.fill_(1.5)  # far beyond the bound of the settings
    state = large.state_dict()
    other = copy.deepcopy(Flow(TINY))
    if inside:  # as a part of another module, such as a LightningModule
        nn.ModuleDict({"flow": other}).load_state_dict({f"flow.{k}": v for k, v in state.items()})
    else:
        other.load_state_dict(state)
    expected = Flow.from_tensors(TINY, state)
    x = torch.rand(4, *TINY.shape) * 2 - 1
    assert torch.equal(other(x)[0], expected(x)[0])
    before = [(c.bound, c.terms, c.terms64) for c in couplings(other)]
    assert before == [(c.bound, c.terms, c.terms64) for c in couplings(expected)]
    assert min(c.bound for c in couplings(other)) > MEF.bound
    with pytest.raises(ValueError, match="norm"):
        other.load_state_dict({k: v + 1e3 * ("rescale" in k) for k, v in state.items()})
    other.load_state_dict(state)
    assert [(c.bound, c.terms, c.terms64) for c in couplings(other)] == before
    pickle.loads(pickle.dumps(other))


# Freezing


def test_freezing_leaves_the_flow_alone(flow: Flow) -> None:
    before = copy.deepcopy(flow.state_dict())
    frozen = flow.freeze()
    assert (flow.frozen, frozen.frozen, frozen.freeze().frozen) == (False, True, True)
    assert not list(frozen.parameters())
    assert not frozen.training
    assert all(parameter.requires_grad for parameter in flow.parameters())
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name])


def test_freezing_shares_no_memory(flow: Flow) -> None:
    """Not even in float64 on the CPU, in which the folded weights are computed."""
    flow = copy.deepcopy(flow).double()
    frozen = flow.freeze()
    again = frozen.freeze()

    def memory(flow: Flow) -> set[int]:
        tensors = itertools.chain(flow.parameters(), flow.buffers())
        return {x.untyped_storage().data_ptr() for x in tensors if x.numel()}

    assert memory(flow).isdisjoint(memory(frozen))
    assert memory(frozen).isdisjoint(memory(again))
    assert len(memory(again)) == len(memory(frozen)) > 10


def test_a_frozen_flow_can_be_copied_moved_and_pickled(frozen: Flow) -> None:
    z = torch.randn(2, *TINY.shape)
    v = frozen.inverse(z)[0]
    for other in (copy.deepcopy(frozen), frozen.freeze(), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(other.inverse(z)[0], v)
    double = copy.deepcopy(frozen).double()
    assert double.dtype == torch.float64
    assert torch.allclose(double.inverse(z.double())[0], v.double(), atol=1e-5)


# Training


def gradients(flow: Flow) -> list[Tensor]:
    v = torch.rand(4, *TINY.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z, logdet = flow(v)
    (z.square().sum() / 2 - logdet.sum()).backward()
    return [parameter.grad for parameter in flow.parameters() if parameter.grad is not None]


def test_recomputing_activations_gives_the_same_gradients(flow: Flow) -> None:
    expected = gradients(copy.deepcopy(flow))
    form = copy.deepcopy(flow)
    form.configure_training(recompute="steps")
    assert form.recompute == "steps"
    assert all(torch.equal(a, b) for a, b in zip(gradients(form), expected, strict=True))


def test_bfloat16_changes_training_steps_alone(flow: Flow) -> None:
    full, half = copy.deepcopy(flow), copy.deepcopy(flow)
    half.configure_training(bf16=True)
    exact, rounded = (torch.cat([g.flatten() for g in gradients(form)]) for form in (full, half))
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9
    v = torch.rand(4, *TINY.shape) * 2 - 1
    with torch.no_grad():
        assert torch.equal(full(v)[0], half(v)[0])


# Precision and compilation


def test_tf32_is_off_inside_and_as_it_was_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn: Any = torch.backends.cudnn

    def tf32() -> bool:
        return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32

    for before in (True, False):
        monkeypatch.setattr(cudnn, "allow_tf32", before)
        with DisableTF32(torch.device("cuda")):
            assert not tf32()
        assert cudnn.allow_tf32 == before
        with DisableTF32(torch.device("cpu")):
            assert cudnn.allow_tf32 == before


def test_tf32_of_matrix_products_is_off_inside() -> None:
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("high")
    try:
        with DisableTF32(torch.device("cuda")):
            inside = getattr(matmul, "fp32_precision", matmul)
            assert inside == "ieee" or (inside is matmul and not matmul.allow_tf32)
        assert matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch < 2.9")
def test_settings_for_all_of_torch_still_reach_cudnn() -> None:
    """In a process of its own: a setting that was ever written stays."""
    script = """
import torch
from nfaug.flows.networks import DisableTF32
conv = torch.backends.cudnn.conv
assert conv.fp32_precision == "tf32"
for value in ("ieee", "tf32"):
    with DisableTF32(torch.device("cuda")):
        assert conv.fp32_precision == "ieee"
    torch.backends.fp32_precision = value
    assert conv.fp32_precision == value, value
conv.fp32_precision = "tf32"
torch.backends.cudnn.fp32_precision = "ieee"
with DisableTF32(torch.device("cuda")):
    assert conv.fp32_precision == "ieee"
assert conv.fp32_precision == "tf32"
assert torch.backends.cudnn.fp32_precision == "ieee"
"""
    ran = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, ran.stderr


def test_autocast_does_not_reach_encode_and_decode(frozen: Flow) -> None:
    batch = images(4)
    with torch.no_grad():
        z = frozen.encode(batch)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(frozen.encode(batch)[0], z)
            assert torch.equal(frozen.decode(z), batch)
            assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("heads", [0, 2])
def test_compiles_to_one_graph(heads: int) -> None:
    mef = MefConfig(steps=(1,), blocks=(0,), width=(3,), attention_heads=heads)
    config = FlowConfig(1, (4, 4), mef)
    flow, batch = perturbed(config), images(3, config)
    frozen = flow.freeze()
    with torch.no_grad():
        z, logdet = frozen.encode(batch)
        encode = torch.compile(frozen.encode, fullgraph=True, backend="aot_eager")
        decode = torch.compile(frozen.decode, fullgraph=True, backend="aot_eager")
        compiled, compiled_logdet = encode(batch)
        assert torch.allclose(compiled, z, atol=1e-5)
        assert torch.allclose(compiled_logdet, logdet, rtol=1e-5)
        assert torch.equal(decode(z), batch)
    step = torch.compile(flow, fullgraph=True, backend="aot_eager")
    z, logdet = step(torch.rand(2, *config.shape) * 2 - 1)
    (z.square().sum() - logdet.sum()).backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
