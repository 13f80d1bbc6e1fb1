"""What `NFAugment` takes and refuses, as settings and as parameters to replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.checks import check_number
from .engine import Engine
from .params import NFAParams

__all__ = [
    "checked_axes",
    "checked_gate",
    "checked_generator",
    "checked_share",
    "refuse_lacking",
    "refuse_other_params",
]

_GATE = 1.25  # what True means


def checked_share(value: float | Sequence[float] | Tensor, classes: int) -> float | Tensor:
    """A share of images in [0, 1], or (K,) on the CPU with one for each class."""
    if isinstance(value, (int, float)):
        return check_number("p", value, 0, 1)
    each = torch.as_tensor(value, dtype=torch.float32).detach().cpu()
    if each.shape != (classes,) or not bool(((each >= 0) & (each <= 1)).all()):
        raise ValueError(
            f"p must be a number in [0, 1], or one for each of {classes} classes; got {value}"
        )
    return each


def checked_axes(axes: int | None) -> int | None:
    """A number of leading axes, or None."""
    if axes is not None and (type(axes) is not int or axes < 1):
        raise ValueError(f"axes must be a whole number of at least 1, or None; got {axes}")
    return axes


def checked_gate(gate: Any) -> float | None:
    """The radius of the gate, or None for no gate, of a number, a switch or None."""
    value = gate.item() if hasattr(gate, "item") else gate  # numpy's booleans, which are none
    if value is None or value is False:
        return None
    return check_number("gate", _GATE if value is True else float(value), 0, math.inf)


def checked_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator on the CPU, or None."""
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator must be on the CPU, so that a seed means the same on every device; got "
            f"one on {generator.device}"
        )
    return generator


def refuse_lacking(engine: Engine, partners: str, keep: str) -> None:
    """Refuse settings that need what the checkpoint does not have.

    Raises:
        ValueError: says what is missing and what would do.
    """
    if partners in ("memory", "both") and not engine.has_memory:
        raise ValueError(
            f"partners={partners!r} needs a partner memory and the checkpoint has none: fit it "
            "to your classes (nfaug fit), or use partners='batch'"
        )
    if keep == "consistent" and not engine.classifies:
        raise ValueError(
            "keep='consistent' asks the flow for the class of each variant, and the checkpoint "
            "has no gaussians of these classes: fit it to them (nfaug fit), or use keep='all'"
        )


def refuse_other_params(params: NFAParams, batch: int, engine: Engine) -> None:
    """Refuse parameters drawn for another batch size, number of axes, dimension or memory.

    No value is looked at. Where the checkpoint has no memory, an image that was to be mixed with a
    row of one finds no partner.

    Raises:
        ValueError: says which.
    """
    again = "replay them with the NFAugment that drew them"
    if params.batch != batch:
        raise ValueError(f"params were made for a batch of {params.batch} images; got {batch}")
    axes = params.weights.shape[1]
    if axes not in (1, engine.rank):
        raise ValueError(
            f"params were made for {axes} axes, the checkpoint has {engine.rank}: {again}"
        )
    if (noisy := params.noise.shape[1]) not in (0, engine.config.dim):
        raise ValueError(
            f"params hold noise of {noisy} dimensions, the flow has {engine.config.dim}: {again}"
        )
    if params.memory and engine.memory_rows not in (0, params.memory):
        raise ValueError(
            f"params were made for a memory of {params.memory} rows, the checkpoint's has "
            f"{engine.memory_rows}: {again}, or draw new ones (make_params)"
        )
