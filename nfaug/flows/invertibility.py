"""How exactly a flow inverts, measured as Behrmann et al. 2021 (arXiv:2006.09347) ask for.

A flow can be a bijection on paper and lose digits in floating point, above all away from its
data. So the round trip is measured on images, on what is far from any image, and on mixed
latents, which no image produced, there against the same flow in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import codec
from .flow import Flow
from .networks import DisableTF32

__all__ = ["as_table", "extreme_images", "measure"]

_BATCH = 256  # the size against which a single image is compared


@torch.no_grad()
def measure(
    flow: Flow,
    images: Tensor,
    others: Mapping[str, Tensor] | None = None,
    *,
    batch_size: int = 256,
    oracle_count: int = 64,
    generator: torch.Generator | None = None,
) -> dict[str, dict[str, float | int]]:
    """Round-trip figures of a flow as it is used, frozen.

    One entry a set of images, "images", each of `others`, and those of `extreme_images`:
    "count", "max" and "p999" (the largest and the 99.9th-percentile |x' - x| in grey levels,
    unquantised, x -> z -> x'), "exact" (the share of images that come back bit for bit) and
    "non_finite" (how many images have a latent or a value that is not finite; the errors are
    those of the finite values). Besides

    - "mixed": `oracle_count` mixtures of the latents of two images. "max" and "p999" are the
      distance in grey levels to what the same flow in float64 decodes, "exact" the share of the
      same 8-bit images, "latent" the largest |z'' - z'|/max|z'| of z' -> x -> z'', "non_finite";
    - "batch": an image alone against the same one in a batch of 256. "latent" is the largest
      difference of latents, "changed" the number of decoded images that differ.

    Args:
        flow: the flow, frozen or not.
        images: uint8 (N, C, H, W) of the flow's image size.
        others: more sets of images by name, such as another data set's.
        batch_size: images at once.
        oracle_count: mixed latents that float64 checks.
        generator: draws the noise images, the pairs and the weights.

    Raises:
        ValueError: a set is empty, not uint8, or of another shape.
    """
    if not flow.codec.exact:
        raise ValueError(
            "the inverse is measured in grey levels; this flow works on an autoencoder's latents"
        )
    sets = {"images": images, **(others or {})}
    shape = (flow.config.channels, *flow.config.image_size)
    for name, batch in sets.items():
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != shape or not len(batch):
            raise ValueError(
                f"{name} must be uint8 of shape (N, {', '.join(map(str, shape))}), N > 0; got "
                f"{batch.dtype} {tuple(batch.shape)}"
            )
    frozen = flow.freeze()
    extremes = extreme_images(images, generator=generator)
    with DisableTF32(flow.device):
        report = {
            name: _round_trip(frozen, batch, batch_size)
            for name, batch in {**sets, **extremes}.items()
        }
        report["mixed"] = _mixed(flow, frozen, images[:oracle_count], generator)
        report["batch"] = _batch_invariance(frozen, torch.cat([images, extremes["noise"]]))
    return report


def extreme_images(
    images: Tensor, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """What no data set holds, from up to 256 of its images, uint8.

    "noise" is uniform, "black" and "white" one image each, "single_pixel" black with one white
    value and white with one black value in turn, "inverted" 255 - x.
    """
    shape = (_BATCH, *images.shape[1:])
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    black = torch.zeros(1, *images.shape[1:], dtype=torch.uint8)
    rows = 32
    single = black.repeat(rows, 1, 1, 1)
    spots = torch.randint(black.numel(), (rows,), generator=generator)
    single.view(rows, -1)[torch.arange(rows), spots] = 255
    single[1::2] = 255 - single[1::2]
    return {
        "noise": noise,
        "black": black,
        "white": 255 - black,
        "single_pixel": single,
        "inverted": 255 - images[:_BATCH],
    }


class _Errors:
    """Grey-level errors of many values: the largest and the 99.9th percentile, in one pass."""

    def __init__(self, total: int) -> None:
        self.largest = torch.zeros(0, dtype=torch.float64)
        self.keep = max(1, math.ceil(total / 1000))

    def update(self, errors: Tensor) -> None:
        errors = torch.cat([self.largest, errors[errors.isfinite()].double().cpu()])
        self.largest = errors.topk(min(self.keep, len(errors))).values

    def figures(self) -> dict[str, float | int]:
        if not len(self.largest):
            return {"max": 0.0, "p999": 0.0}
        return {"max": float(self.largest[0]), "p999": float(self.largest[-1])}


def _largest(values: Tensor) -> float:
    """The largest absolute value among those that are finite."""
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if len(finite) else 0.0


def _broken(*tensors: Tensor) -> Tensor:
    """Which images have a value that is not finite, (B,)."""
    bad = [~torch.isfinite(tensor).flatten(1).all(1) for tensor in tensors]
    return torch.stack(bad).any(0)


def _round_trip(frozen: Flow, images: Tensor, batch_size: int) -> dict[str, float | int]:
    errors = _Errors(images[0].numel() * len(images))
    exact = non_finite = 0
    for part in images.split(batch_size):
        batch = part.to(frozen.device)
        z, _ = frozen.encode(batch)
        v = frozen.inverse(z)[0]
        levels = codec.crop((v + 1) * 128 - 0.5, frozen.config.image_size)
        errors.update((levels - batch).abs())
        exact += int((frozen.decode(z) == batch).flatten(1).all(1).sum())
        non_finite += int(_broken(z, v).sum())
    share = exact / len(images)
    return {"count": len(images), **errors.figures(), "exact": share, "non_finite": non_finite}


def _mixed(
    flow: Flow, frozen: Flow, images: Tensor, generator: torch.Generator | None
) -> dict[str, float | int]:
    z, _ = frozen.encode(images.to(frozen.device))
    partners = z[torch.randperm(len(z), generator=generator).to(z.device)]
    weights = torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
    mixed = z + weights * (partners - z)
    v = frozen.inverse(mixed)[0]
    back = frozen(v)[0]
    device = torch.device("cpu") if frozen.device.type == "mps" else frozen.device
    oracle = copy.deepcopy(flow).to(device).double().freeze()
    exact_v = oracle.inverse(mixed.to(device).double())[0].to(v.device, torch.float64)
    errors = _Errors(v.numel())
    errors.update((v.double() - exact_v).abs() * 128)
    same = codec.from_flow(v) == codec.from_flow(exact_v)
    return {
        "count": len(mixed),
        **errors.figures(),
        "exact": float(same.flatten(1).all(1).double().mean()),
        "latent": _largest(back - mixed) / max(_largest(mixed), 1e-30),
        "non_finite": int(_broken(v, back).sum()),
    }


def _batch_invariance(frozen: Flow, images: Tensor) -> dict[str, float | int]:
    batch = images[:_BATCH].to(frozen.device)
    rows = range(0, len(batch), max(1, len(batch) // 8))
    z, _ = frozen.encode(batch)
    decoded = frozen.decode(z)
    latent, changed = 0.0, 0
    for row in rows:
        alone, _ = frozen.encode(batch[row : row + 1])
        latent = max(latent, _largest(alone - z[row : row + 1]))
        changed += int(not torch.equal(frozen.decode(alone)[0], decoded[row]))
    return {"count": len(rows), "latent": latent, "changed": changed}


def as_table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of `measure`'s figures."""
    columns = ("count", "max", "p999", "exact", "latent", "non_finite", "changed")
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in report.items():
        cells = [name] + [_cell(key, figures.get(key)) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(key: str, value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if key == "exact" else f"{value:.3g}" if key != "count" else str(value)
