"""Files as the released code of the paper writes them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

__all__ = ["DIM", "NAMES", "golden", "released"]

FOLDER = Path(__file__).parent / "golden"
NAMES = ("rgb16", "gray16", "lowrank16")
DIM = 3 * 16 * 16


class Settings:
    """A class that the reader does not know."""

    def __init__(self) -> None:
        self.values = {"lr": 0.01}


class SettingsDict(dict[str, int]):
    """A dictionary that the reader does not know."""


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under their released names, and the figures."""
    with safe_open(FOLDER / f"mef_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    prefix = "state_dict."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return weights, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def released(name: str = "rgb16", **extra: Tensor) -> dict[str, Any]:
    """What a Lightning file of the released code holds."""
    weights, _ = golden(name)
    state = OrderedDict((f"flow.{key}", value) for key, value in weights.items())
    state.update({key.replace("__", "."): value for key, value in extra.items()})
    return {
        "state_dict": state,
        "epoch": 12,
        "hyper_parameters": Settings(),
        "callbacks": [SettingsDict(a=1), {Settings}],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}}],
    }
