"""The released checkpoints (Lightning files) as a flow and class gaussians of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..flows.config import FlowConfig
from ..flows.flow import Flow
from ..gaussians.gaussians import ClassGaussians
from .torch_zip import StoredTensor, TorchZip

__all__ = ["Converted", "convert_checkpoint"]

_PREFIXES = ("ema.ema_model.flow.", "ema.ema_model.", "flow.", "")  # the first found is used
_BOOKKEEPING = ("level_out_shape_arr",)
_GAUSSIANS = ("mu_arr", "cov_lower_arr", "scale_tril_arr")
_DEFAULTS = FlowConfig()


@dataclass
class Converted:
    """What a released checkpoint holds.

    Attributes:
        flow: the flow, from the moving average of the weights where there is one.
        gaussians: the class gaussians, or None if the file has none.
        info: "weights" (the prefix they were found under), "epoch" and "global_step" where the
            file says them, "left_out" (names of the classes in the file that were not rebuilt).
    """

    flow: Flow
    gaussians: ClassGaussians | None = None
    info: dict[str, Any] = field(default_factory=dict)


def convert_checkpoint(path: str | Path, *, gaussians: bool = True) -> Converted:
    """Read a released checkpoint without running anything that is in it.

    The architecture is inferred from the shapes. `gaussians=False` takes the flow alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a checkpoint; it holds keys that no flow of this package
            has (one error lists them; attention layers are refused by name); weights are missing,
            misshapen or not finite; the class gaussians cannot be read.
    """
    with TorchZip(path) as file:
        state = _state_dict(file)
        prefix, names = _choose(state, file.path)
        stored = {name: state[prefix + name] for name in names}
        _refuse_unknown(state, names, prefix, file.path)
        weights = file.tensors(
            {name: value for name, value in stored.items() if name.startswith("blocks.")}
        )
        flow = Flow.from_tensors(infer_config(weights), weights)
        info: dict[str, Any] = {"weights": prefix, "left_out": file.placeholders}
        for key in ("epoch", "global_step"):
            if type(value := file.content.get(key)) is int:
                info[key] = value
        fitted = (
            _read_gaussians(file, _prior(state, stored), flow.config.dim) if gaussians else None
        )
    return Converted(flow.eval(), fitted, info)


def _state_dict(file: TorchZip) -> dict[str, StoredTensor]:
    content = file.content
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{file.path} has no state_dict, so it is no Lightning checkpoint")
    return {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }


def _choose(state: Mapping[str, StoredTensor], path: Path) -> tuple[str, list[str]]:
    for prefix in _PREFIXES:
        if any(key.startswith(f"{prefix}blocks.") for key in state):
            return prefix, [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    raise ValueError(
        f"{path} holds no flow: none of its {len(state)} tensors is called flow.blocks. or "
        "ema.ema_model.flow.blocks. something"
    )


def _refuse_unknown(
    state: Mapping[str, StoredTensor], names: Iterable[str], prefix: str, path: Path
) -> None:
    known = re.compile(
        r"blocks\.\d+\.\d+\.(actnorm\.(scale|shift)|conv1x1\.weight|couplinglayer\.("
        r"scale|shift|rescale|reshift|net\.(layers\.0\.(conv\.weight|norm\.(scale|shift))"
        r"|layers\.[1-9]\d*\.conv[123]\.(conv\.weight|norm\.(scale|shift))"
        r"|out_layer\.(weight|bias))))"
    )
    allowed = (*_BOOKKEEPING, *_GAUSSIANS)
    unknown = [
        prefix + name
        for name in names
        if not known.fullmatch(name) and name.split(".")[0] not in allowed
    ]
    # Beside the copy that is used there may be another, and the counters of the average.
    unknown += [key for key in state if not key.startswith((prefix, "flow.", "ema."))]
    if attention := [key for key in unknown if re.search("att|qkv", key, re.IGNORECASE)]:
        raise ValueError(
            f"{path} was trained with use_attention_after (it holds {attention[0]}); flows with "
            "attention layers are not supported, since nothing is at hand to verify them against"
        )
    if unknown:
        raise ValueError(f"{path} holds keys that no flow of nfaug has: {', '.join(unknown)}")


def infer_config(weights: Mapping[str, Tensor]) -> FlowConfig:
    """The flow's shape from the shapes of its weights, under the names of `Flow.state_dict`.

    Raises:
        ValueError: a level has no first step, or shapes that no flow has.
    """
    indices = {tuple(map(int, name.split(".")[1:3])) for name in weights}
    levels = 1 + max(level for level, _ in indices)
    steps = tuple(sum(level == i for i, _ in indices) for level in range(levels))
    blocks, width, couplings = [], [], []
    for level in range(levels):
        net = f"blocks.{level}.0.couplinglayer.net."
        deep = [name.removeprefix(net) for name in weights if name.startswith(f"{net}layers.")]
        blocks.append(max((int(name.split(".")[1]) for name in deep), default=0))
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
        raise ValueError(f"the weights need a {dims}-dimensional {name}; there is {found}")
    return tuple(weights[name].shape)


def _ranks(couplings: list[tuple[int, int]]) -> tuple[int, int]:
    """(low_rank_above, rank) from the couplings' (n, output channels)."""
    # n(n + 1) and (2k + 1)n can be the same number: full rank is then what it means.
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


def _prior(
    state: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]
) -> dict[str, dict[int, StoredTensor]]:
    """{array name: {class: tensor}}; the average of a model may lack them."""
    for source, prefix in ((stored, ""), (state, "flow."), (state, "")):
        found: dict[str, dict[int, StoredTensor]] = {name: {} for name in _GAUSSIANS}
        for key, value in source.items():
            name, _, index = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and name in found and index.isdigit():
                found[name][int(index)] = value
        if found["mu_arr"]:
            return found
    return {}


def _read_gaussians(
    file: TorchZip, arrays: Mapping[str, Mapping[int, StoredTensor]], dim: int
) -> ClassGaussians | None:
    if not arrays:
        return None
    advice = "convert with gaussians=False and fit the classes to images instead"
    count = len(arrays["mu_arr"])
    for name in ("mu_arr", "scale_tril_arr"):
        if sorted(arrays[name]) != list(range(count)):
            raise ValueError(
                f"{file.path}: {name} has classes {sorted(arrays[name])}, not 0 to {count - 1}; "
                f"{advice}"
            )
    means, variances = [], []
    for label in range(count):
        mean, scale = (
            file.tensor(f"{name}.{label}", arrays[name][label]).double()
            for name in ("mu_arr", "scale_tril_arr")
        )
        if mean.numel() != dim:
            raise ValueError(
                f"{file.path}: mu_arr.{label} has shape {tuple(mean.shape)}; the latents have "
                f"{dim} values; {advice}"
            )
        if scale.shape == (dim, dim):
            diagonal = scale.diagonal()
            if (scale - torch.diag(diagonal)).abs().max() > 1e-6 * diagonal.abs().max():
                raise ValueError(
                    f"{file.path}: scale_tril_arr.{label} is a dense covariance; gaussians here "
                    f"are diagonal; {advice}"
                )
            scale = diagonal
        elif scale.numel() != dim:
            raise ValueError(
                f"{file.path}: scale_tril_arr.{label} has shape {tuple(scale.shape)}; ({dim},) or "
                f"({dim}, {dim}) can be read; {advice}"
            )
        means.append(mean.flatten())
        variances.append(scale.flatten().square())
    return ClassGaussians(torch.stack(means), torch.stack(variances))
