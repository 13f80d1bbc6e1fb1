"""scripts/convert_released.py reads what was exported from the released files."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tools.nfa import NAMES as CLASS_NAMES
from tools.nfa import images_of, write_images
from tools.released import DIM, NAMES, golden, released

import nfaug
import nfaug.cli
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.mef_config import MefConfig

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_released.py"
convert = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_flow_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = golden(name)
    save_file(released(name), tmp_path / "released.safetensors")
    monkeypatch.setattr(sys, "argv", ["", f"{tmp_path}/released.safetensors", f"{tmp_path}/flow"])
    convert.main()
    flow = nfaug.load(tmp_path / "flow").flow
    with torch.no_grad():
        z, _ = flow.encode(figures["image"], figures["noise"])
    assert (z - figures["z"]).abs().max() < 1e-5 * figures["z"].abs().max()


@pytest.mark.parametrize("name", ["rgb16", "attention16"])
@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "ema.ema_model."])
def test_the_moving_average_is_preferred(prefix: str, name: str) -> None:
    state = released(name)
    state |= {prefix + k.removeprefix("flow."): v + 1 for k, v in state.items()}
    for average, level in ((prefix, 0.0), ("flow.", 1.0)):
        state[f"{average}mu_arr.0"] = torch.full((DIM,), level)
        state[f"{average}scale_tril_arr.0"] = torch.full((DIM,), 2.0 + level)
    flow, gaussians = convert.convert_state({**state, "ema.step": torch.tensor(7)})
    weights, _ = golden(name)
    for key, value in flow.state_dict().items():
        assert torch.equal(value, weights[key] + 1)
    assert (gaussians.means == 1).all(), "those that training used"
    assert (gaussians.variances == 9).all()
    alone = {key: value for key, value in state.items() if not key.startswith("flow.")}
    _, gaussians = convert.convert_state(alone)
    assert (gaussians.means == 0).all()
    assert (gaussians.variances == 4).all()


@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "flow."])
@pytest.mark.parametrize("heads", [6, 2])
def test_attention_and_low_rank(prefix: str, heads: int) -> None:
    flow = low_rank_flow(8, heads)
    state = {prefix + name: value for name, value in flow.state_dict().items()}
    found, _ = convert.convert_state(state, heads)
    assert [coupling.rank for coupling in couplings(found)] == [None, 3, 3]
    assert {coupling.net.attention_block_after.heads for coupling in couplings(found)} == {heads}
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found(x)[0], flow(x)[0])


def low_rank_flow(side: int, heads: int) -> Flow:
    """An RGB flow whose second level has coupling matrices of rank 3."""
    torch.manual_seed(0)
    mef = MefConfig((side,) * 2, (1, 2), (1, 0), (4, 5), low_rank_above=6, attention_heads=heads)
    flow = Flow(FlowConfig(3, (side, side), mef))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return flow


def couplings(flow: Flow) -> list[MatrixExpCoupling]:
    return [module for module in flow.modules() if isinstance(module, MatrixExpCoupling)]


def test_the_number_of_heads_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor tells it. Another one gives another flow, if it divides the channels."""
    save_file(released("attention16"), tmp_path / "released.safetensors")
    command = ["", str(tmp_path / "released.safetensors"), str(tmp_path / "flow")]
    monkeypatch.setattr(sys, "argv", [*command, "--attention-heads", "3"])
    convert.main()
    assert nfaug.load(tmp_path / "flow").config.flow.backbone.attention_heads == 3
    with pytest.raises(ValueError, match="attention_heads must divide 6"):
        convert.convert_state(released("attention16"), 4)


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("prefix", ["flow.", "ema.ema_model.flow."])
def test_fit_takes_a_converted_checkpoint(
    low_rank: bool, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = low_rank_flow(16, 6).state_dict() if low_rank else released("attention16")
    state = {prefix + k.removeprefix("flow."): v for k, v in state.items()}
    save_file(state, tmp_path / "released.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "released.safetensors", "papers-flow"])
    convert.main()
    write_images(tmp_path / "images", 20, train=12)
    fit = ["fit", "--checkpoint", "papers-flow", "--data", "images", "--out", "my-nfa"]
    assert nfaug.cli.main([*fit, "--rank", "4"]) == 0
    fitted = nfaug.load("my-nfa")
    assert fitted.config.classes == CLASS_NAMES
    assert fitted.config.flow.backbone.attention_heads == 6
    nfa = nfaug.NFAugment(fitted, p=1.0, gate=None)
    images, labels = images_of(torch.arange(3).repeat(4), size=(16, 16)), torch.arange(3).repeat(4)
    assert not torch.equal(nfa(images, labels)[0], images)
    assert nfa.stats()["applied"] == 12


@pytest.mark.parametrize("dense", [True, False])
def test_gaussians_are_read(dense: bool) -> None:
    torch.manual_seed(0)
    means, scales = torch.randn(3, DIM), torch.rand(3, DIM) + 0.5
    extra = {f"flow__mu_arr__{k}": means[k] for k in range(3)}
    extra |= {
        f"flow__scale_tril_arr__{k}": scales[k].diag() if dense else scales[k] for k in range(3)
    }
    _, gaussians = convert.convert_state(released(**extra))
    assert torch.equal(gaussians.means, means)
    assert torch.allclose(gaussians.variances, scales**2)
    extra["flow__scale_tril_arr__1"] = torch.ones(DIM, DIM).tril()
    with pytest.raises(ValueError, match="class 1"):
        convert.convert_state(released(**extra))


def test_what_is_no_flow_of_nfaug() -> None:
    with pytest.raises(ValueError, match="no flow"):
        convert.convert_state({"weight": torch.ones(1)})
    foreign = released(flow__blocks__0__0__attention=torch.ones(1))
    with pytest.raises(ValueError, match="attention"):
        convert.convert_state(foreign)
