"""scripts/convert_released.py reads what was exported from the released files."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from released_tools import DIM, NAMES, golden, released
from safetensors.torch import save_file

import nfaug

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


@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "ema.ema_model."])
def test_the_moving_average_is_preferred(prefix: str) -> None:
    state = released()
    state |= {prefix + k.removeprefix("flow."): v + 1 for k, v in state.items()}
    flow, gaussians = convert.convert_state({**state, "ema.step": torch.tensor(7)})
    name = "blocks.0.0.actnorm.shift"
    assert torch.equal(flow.state_dict()[name], golden("rgb16")[0][name] + 1)
    assert gaussians is None


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
