"""scripts/convert_released.py reads the released files, and runs nothing that is in them."""

from __future__ import annotations

import contextlib
import os
import random
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from released_tools import DIM, NAMES, golden, released

import nfaug

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_released.py"
convert = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_flow_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = golden(name)
    torch.save(released(name), tmp_path / "released.ckpt")
    monkeypatch.setattr(sys, "argv", ["", f"{tmp_path}/released.ckpt", f"{tmp_path}/flow"])
    convert.main()
    flow = nfaug.load(tmp_path / "flow").flow
    with torch.no_grad():
        z, _ = flow.encode(figures["image"], figures["noise"])
    assert (z - figures["z"]).abs().max() < 1e-5 * figures["z"].abs().max()


@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "ema.ema_model."])
def test_the_moving_average_is_preferred(prefix: str) -> None:
    state = released()["state_dict"]
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
    _, gaussians = convert.convert_state(released(**extra)["state_dict"])
    assert torch.equal(gaussians.means, means)
    assert torch.allclose(gaussians.variances, scales**2)
    extra["flow__scale_tril_arr__1"] = torch.ones(DIM, DIM).tril()
    with pytest.raises(ValueError, match="class 1"):
        convert.convert_state(released(**extra)["state_dict"])


def test_what_is_no_flow_of_nfaug() -> None:
    with pytest.raises(ValueError, match="no flow"):
        convert.convert_state({"weight": torch.ones(1)})
    foreign = released(flow__blocks__0__0__attention=torch.ones(1))
    with pytest.raises(ValueError, match="attention"):
        convert.convert_state(foreign["state_dict"])


class Attack:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def attacks(folder: Path, numbers: range) -> int:
    """Read mutated files that hold an attack; return how many could be read."""
    content = {**released(), "callbacks": Attack(folder / "started")}
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if v.numel() < 300}
    torch.save(content, folder / "hostile.ckpt")
    good = (folder / "hostile.ckpt").read_bytes()
    at = good.index(b"data.pkl")
    read = 0
    for number in numbers:
        rng, data = random.Random(number), bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8]) if number else 0):
            where = rng.randrange(at, at + 8000) if rng.random() < 0.7 else rng.randrange(len(data))
            data[where % len(data)] ^= 1 << rng.randrange(8)
        (folder / "hostile.ckpt").write_bytes(data)
        with contextlib.suppress(Exception):
            convert.read_state(folder / "hostile.ckpt")
            read += 1
    assert not (folder / "started").exists(), "code of the file was run"
    return read


def test_an_attack_is_not_run(tmp_path: Path) -> None:
    assert attacks(tmp_path, range(1)) == 0
    attacks(tmp_path, range(1, 40))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_many_attacks_are_not_run(tmp_path: Path) -> None:
    attacks(tmp_path, range(2000))
