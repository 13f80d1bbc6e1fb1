"""Convert the released Lightning checkpoints to a flow and class gaussians."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classes.gaussians import ClassGaussians
from ..flows.config import FlowConfig
from ..flows.flow import Flow
from ..flows.mef import MefSettings
from ..io.manifest import reading
from .foreign import read_foreign

__all__ = ["Converted", "convert_checkpoint", "convert_state", "infer_config"]

_PREFIXES = ("ema.ema_model.flow.", "ema.ema_model.", "flow.", "")  # the first match wins
_GAUSSIANS = ("mu_arr", "cov_lower_arr", "scale_tril_arr")
_OTHERS = ("level_out_shape_arr", *_GAUSSIANS)  # keys besides the weights
_DEFAULTS = MefSettings()
_MOST_LEVELS, _MOST_BLOCKS = 16, 10_000  # bounds of the numbers in names, far above any real flow
_STEP = re.compile(r"blocks\.\d{1,5}\.\d{1,5}\.")


@dataclass
class Converted:
    """The content of a released checkpoint.

    Attributes:
        flow: The flow, from the moving average of the weights if there is one.
        gaussians: The class gaussians, or None if the file has none.
        info: "weights" (the prefix of their names), "epoch" and "global_step" if the file has
            them, and "left_out" (names of the classes in the file that were not loaded).
    """

    flow: Flow
    gaussians: ClassGaussians | None = None
    info: dict[str, Any] = field(default_factory=dict)


def convert_checkpoint(path: str | Path, *, gaussians: bool = True) -> Converted:
    """Read a released checkpoint without running anything that is in it.

    The architecture is inferred from the shapes of the weights.

    Args:
        path: The Lightning `.ckpt` file.
        gaussians: Read the class gaussians too.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not such a checkpoint or exceeds the limits of `read_foreign`;
            it holds unknown keys, such as those of attention layers; weights are missing,
            misshapen or not finite; or the class gaussians cannot be read.
    """
    path = Path(path)
    state, numbers, left_out = read_foreign(path)
    with reading(path):
        converted = convert_state(state, gaussians=gaussians)
    converted.info["left_out"] = left_out
    kept = ("epoch", "global_step")
    converted.info.update({key: numbers[key] for key in kept if key in numbers})
    return converted


def convert_state(state: Mapping[str, Tensor], *, gaussians: bool = True) -> Converted:
    """Convert the tensors of a released `state_dict`.

    Raises:
        ValueError: See `convert_checkpoint`.
    """
    prefix, own = _select(state)
    weights = {name: value for name, value in own.items() if _STEP.match(name)}
    rest = [name for name in own if name not in weights]
    unknown = [prefix + name for name in rest if name.split(".")[0] not in _OTHERS]
    # Besides the copy that is used there may be another one, and counters of the average.
    unknown += [key for key in state if not key.startswith((prefix, "flow.", "ema."))]
    if unknown:
        raise ValueError(f"keys that no flow of nfaug has: {', '.join(unknown)}")
    flow = Flow.from_tensors(infer_config(weights), weights)
    fitted = _gaussians(_prior(state, own), flow.config.dim) if gaussians else None
    return Converted(flow.eval(), fitted, {"weights": prefix})


def _select(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix of the best copy of the weights and the tensors under it."""
    for prefix in _PREFIXES:
        if any(key.startswith(f"{prefix}blocks.") for key in state):
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            return prefix, own
    raise ValueError(
        f"no flow found: none of the {len(state)} tensors has a name that starts with flow.blocks. "
        "or ema.ema_model.flow.blocks."
    )


def infer_config(weights: Mapping[str, Tensor]) -> FlowConfig:
    """Infer the shape of a flow from the shapes of its weights (names as in `Flow.state_dict`).

    Raises:
        ValueError: A level has no first step, a number in a name is too large, or no flow has such
            shapes.
    """
    indices = {tuple(map(int, name.split(".")[1:3])) for name in weights}
    levels = 1 + max((level for level, _ in indices), default=0)
    if levels > _MOST_LEVELS:
        raise ValueError(f"a weight of level {levels - 1}; a flow has at most {_MOST_LEVELS}")
    count = Counter(level for level, _ in indices)
    steps = tuple(count[level] for level in range(levels))
    blocks, width, couplings = [], [], []
    for level in range(levels):
        net = f"blocks.{level}.0.couplinglayer.net."
        deep = [name.removeprefix(net) for name in weights if name.startswith(f"{net}layers.")]
        blocks.append(max((int(name.split(".")[1]) for name in deep), default=0))
        if blocks[-1] > _MOST_BLOCKS:
            raise ValueError(f"a weight of block {blocks[-1]}; there are at most {_MOST_BLOCKS}")
        width.append(_shape(weights, f"{net}layers.0.conv.weight", 4)[0])
        channels = _shape(weights, f"blocks.{level}.0.actnorm.scale", 3)[0]
        couplings.append((channels // 2, _shape(weights, f"{net}out_layer.weight", 4)[0]))
    channels, height, broad = _shape(weights, "blocks.0.0.actnorm.scale", 3)
    low_rank_above, rank = _ranks(couplings)
    return FlowConfig(
        channels=channels // 4,
        image_size=(2 * height, 2 * broad),
        steps=steps,
        blocks=tuple(blocks),
        width=tuple(width),
        low_rank_above=low_rank_above,
        rank=rank,
    )


def _shape(weights: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    if name not in weights or weights[name].dim() != dims:
        found = tuple(weights[name].shape) if name in weights else "nothing"
        raise ValueError(f"the weights need a {dims}-dimensional {name}; found {found}")
    return tuple(weights[name].shape)


def _ranks(couplings: list[tuple[int, int]]) -> tuple[int, int]:
    """Return (low_rank_above, rank) from (n, output channels) of the couplings."""
    # n(n + 1) and (2k + 1)n may be equal: full rank is assumed then.
    full = [n for n, out in couplings if out == n * (n + 1)]
    low = [(n, out) for n, out in couplings if out != n * (n + 1)]
    ranks = {(out // n - 1) // 2 for n, out in low if n} or {_DEFAULTS.rank}
    rank = ranks.pop()
    if ranks or any(out != (2 * rank + 1) * n for n, out in low):
        raise ValueError(f"couplings of (n, output channels) {couplings} fit no rank")
    above = _DEFAULTS.low_rank_above
    if any(n > above for n in full) or any(n <= above for n, _ in low):
        above = max(full, default=0)
    if any(n <= above for n, _ in low):
        raise ValueError(f"couplings of (n, output channels) {couplings} mix full and low rank")
    return above, rank


def _prior(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    """Return {array: {class: tensor}}, from `state` if the average of the weights lacks them."""
    for source, prefix in ((own, ""), (state, "flow."), (state, "")):
        found: dict[str, dict[int, Tensor]] = {name: {} for name in _GAUSSIANS}
        for key, value in source.items():
            name, _, index = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and name in found and index.isdecimal():
                found[name][int(index)] = value
        if found["mu_arr"]:
            return found
    return {}


def _gaussians(arrays: Mapping[str, Mapping[int, Tensor]], dim: int) -> ClassGaussians | None:
    if not arrays:
        return None
    advice = "convert with gaussians=False and fit the classes to images instead"
    count = len(arrays["mu_arr"])
    for name in ("mu_arr", "scale_tril_arr"):
        if sorted(arrays[name]) != list(range(count)):
            raise ValueError(
                f"{name} has classes {sorted(arrays[name])[:20]}, not 0 to {count - 1}; {advice}"
            )
    means, variances = [], []
    for label in range(count):
        mean, scale = (arrays[name][label].double() for name in ("mu_arr", "scale_tril_arr"))
        if scale.shape == (dim, dim) and torch.allclose(scale, scale.diagonal().diag()):
            scale = scale.diagonal()
        if mean.numel() != dim or scale.numel() != dim:
            raise ValueError(
                f"class {label} has a mean of shape {tuple(mean.shape)} and a scale of shape "
                f"{tuple(scale.shape)}; both need {dim} values, or the scale a diagonal matrix of "
                f"them; {advice}"
            )
        means.append(mean.flatten())
        variances.append(scale.flatten().square())
    return ClassGaussians(torch.stack(means), torch.stack(variances))
