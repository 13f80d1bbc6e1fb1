"""Weights as the released code of the paper names them, and figures that it gives."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["DIM", "NAMES", "fixed_point", "golden", "released"]

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"
NAMES = ("rgb16", "gray16", "lowrank16", "attention16")
DIM = 3 * 16 * 16


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under their released names, and the figures."""
    with safe_open(FOLDER / f"mef_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    prefix = "state_dict."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return weights, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def fixed_point() -> dict[str, Tensor]:
    """Values of the released implementation's fixed point, by what is fitted and how.

    `lambda300.sum1.iso0.both.step1.means`: lambda; with (sum1) or without the sum over classes;
    with (iso1) or without the isotropic step; what is fitted; after one step, two, or at the end.
    """
    return load_file(FOLDER / "fixed_point.safetensors")


def released(name: str = "rgb16", **extra: Tensor) -> dict[str, Tensor]:
    """The tensors of a file of the released code."""
    weights, _ = golden(name)
    state = {f"flow.{key}": value for key, value in weights.items()}
    state.update({key.replace("__", "."): value for key, value in extra.items()})
    return state
