"""Numerical invertibility and condition of a flow (Behrmann et al. 2021, arXiv:2006.09347).

A flow that is a bijection in exact arithmetic can lose digits in floating point, especially far
from its training data. Round trips are measured on images, on extreme images and on mixed latents;
the latter are compared with the same flow in float64. The condition number of the Jacobian says how
much the flow amplifies rounding errors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from ..flows import codec
from .flow import Flow
from .layers import Layer
from .networks import DisableTF32

__all__ = ["extreme_images", "local_condition", "measure"]

_MOST = 256  # images of an extreme set
_MIXED = 64  # latents that are compared with float64
_CONDITIONED = 4  # images per set; each takes about 50 times the time of a round trip
_ITERATIONS = 8  # of the power iteration
_STEP = 1e-5  # of the finite differences; the map is evaluated in float64


@torch.no_grad()
def measure(
    flow: Flow,
    images: Tensor,
    others: Mapping[str, Tensor] | None = None,
    *,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> dict[str, dict[str, float | int]]:
    """Measure round trips and the condition of the frozen flow.

    Args:
        flow: The flow, frozen or not.
        images: uint8 of shape (N, C, H, W), the flow's image size.
        others: More sets of images by name, such as those of another data set.
        batch_size: Images per batch.
        generator: Source of randomness: noise images, pairs and weights.

    Returns:
        One entry per set of images ("images", those of `others` and of `extreme_images`):

        - "count": number of images.
        - "max": largest |x' - x| in grey levels, unquantised, for the round trip x -> z -> x'; of
          finite values only.
        - "exact": share of images whose round trip returns every 8-bit level.
        - "non_finite": number of images with a value or latent that is not finite.
        - "lipschitz", "inverse_lipschitz", "condition": largest over images of the figures of
          `local_condition`; missing where these are not finite.

        The entry "mixed" is for 64 latents z', each a mixture of the latents of two
        images. Its "max" and "exact" compare decoded images with those of the same flow in
        float64; "latent" is the largest |z'' - z'|/max|z'| of z' -> x -> z''.

        One entry per step, "blocks.LEVEL.STEP": "scale_min" and "scale_max" are the range of its
        ActNorm scales, "exponent" the largest possible norm of its coupling's exponent.

    Raises:
        ValueError: If a set is empty, not uint8 or of another shape, or the flow works on
            autoencoder latents.
    """
    if not flow.codec.exact:
        raise ValueError(
            "invertibility is measured in grey levels; this flow works on autoencoder latents"
        )
    sets = {"images": images, **(others or {})}
    shape = (flow.config.channels, *flow.config.image_size)
    for name, batch in sets.items():
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != shape or not len(batch):
            raise ValueError(
                f"{name} must be uint8 of shape (N, {', '.join(map(str, shape))}), N > 0; got "
                f"{batch.dtype} {tuple(batch.shape)}"
            )
    frozen, oracle = flow.freeze(), _in_float64(flow)
    extremes = extreme_images(images, generator=generator)
    with DisableTF32(flow.device):
        report = {}
        for name, batch in {**sets, **extremes}.items():
            report[name] = _round_trip(frozen, batch, batch_size)
            z = oracle.encode(batch[:_CONDITIONED].to(oracle.device))[0]
            report[name].update(_condition(oracle, z))
        report["mixed"], mixed = _mixed(frozen, oracle, images[:_MIXED], generator)
        report["mixed"].update(_condition(oracle, mixed[:_CONDITIONED]))
    for level, steps in enumerate(frozen.blocks):
        for number, step in enumerate(cast("Iterable[Layer]", steps)):
            if figures := step.conditioning():
                report[f"blocks.{level}.{number}"] = dict(figures)
    return report


def local_condition(flow: Flow, z: Tensor, iterations: int = _ITERATIONS) -> dict[str, Tensor]:
    """Estimate the condition of a flow's Jacobian J = df/dv at v = f^-1(z).

    The largest singular values of J and J^-1 are found by power iteration on J^T J and on
    J^-T J^-1. Products with J are finite differences, products with J^T are those of
    back-propagation. Each value approaches the true one from below.

    Args:
        flow: The flow, preferably frozen and in float64.
        z: Latents of shape (B, C, H, W), on the flow's device.
        iterations: Steps of each power iteration.

    Returns:
        Tensors of shape (B,): "lipschitz" is ||J||_2, the local Lipschitz constant of encoding,
        "inverse_lipschitz" is ||J^-1||_2, that of decoding, and "condition" is their product.
    """
    with torch.no_grad():
        v = flow.inverse(z)[0]
    encode, decode = (
        _largest_singular_value(function, point, iterations)
        for function, point in ((flow.forward, v), (flow.inverse, z))
    )
    return {"lipschitz": encode, "inverse_lipschitz": decode, "condition": encode * decode}


def _largest_singular_value(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], point: Tensor, iterations: int
) -> Tensor:
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        value = function(point)[0]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(point.shape[1:], generator=generator, dtype=torch.float64).to(point)
    direction, norm = _normalized(start.expand_as(point))
    for _ in range(iterations):
        with torch.no_grad():
            product = (function(point + _STEP * direction)[0] - value) / _STEP
        product, norm = _normalized(product)
        (back,) = torch.autograd.grad(value, point, product, retain_graph=True)
        direction = _normalized(back)[0]
    return norm


def _normalized(batch: Tensor) -> tuple[Tensor, Tensor]:
    norm = batch.flatten(1).norm(dim=1)
    return batch / norm[:, None, None, None], norm


def _condition(oracle: Flow, z: Tensor) -> dict[str, float]:
    figures = {name: float(value.max()) for name, value in local_condition(oracle, z).items()}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _in_float64(flow: Flow) -> Flow:
    device = torch.device("cpu") if flow.device.type == "mps" else flow.device  # no float64 on MPS
    return copy.deepcopy(flow).to(device).double().freeze()


def extreme_images(
    images: Tensor, *, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Make sets of images that are unlike those of a data set, from up to 256 of its images.

    Args:
        images: uint8 of shape (N, C, H, W).
        generator: Source of randomness.

    Returns:
        uint8 sets: "noise" is uniform; "black" and "white" are one image each; "single_pixel" is
        black with one white value, or white with one black value; "inverted" is 255 - x.
    """
    shape = images.shape[1:]
    noise = torch.randint(256, (_MOST, *shape), generator=generator, dtype=torch.uint8)
    black = torch.zeros(1, *shape, dtype=torch.uint8)
    single = black.repeat(32, 1, 1, 1)
    spots = torch.randint(black.numel(), (32,), generator=generator)
    single.view(32, -1)[torch.arange(32), spots] = 255
    single[1::2] = 255 - single[1::2]
    return {
        "noise": noise,
        "black": black,
        "white": 255 - black,
        "single_pixel": single,
        "inverted": 255 - images[:_MOST],
    }


def _largest(values: Tensor) -> float:
    """Return the largest absolute value of the finite values."""
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if len(finite) else 0.0


def _broken(*tensors: Tensor) -> Tensor:
    """Return which images have a value that is not finite, shape (B,)."""
    bad = [~torch.isfinite(tensor).flatten(1).all(1) for tensor in tensors]
    return torch.stack(bad).any(0)


def _round_trip(frozen: Flow, images: Tensor, batch_size: int) -> dict[str, float | int]:
    largest, exact, non_finite = 0.0, 0, 0
    for part in images.split(batch_size):
        batch = part.to(frozen.device)
        z, _ = frozen.encode(batch)
        v = frozen.inverse(z)[0]
        levels = codec.crop((v + 1) * 128 - 0.5, frozen.config.image_size)
        largest = max(largest, _largest(levels - batch))
        exact += int((frozen.decode(z) == batch).flatten(1).all(1).sum())
        non_finite += int(_broken(z, v).sum())
    share = exact / len(images)
    return {"count": len(images), "max": largest, "exact": share, "non_finite": non_finite}


def _mixed(
    frozen: Flow, oracle: Flow, images: Tensor, generator: torch.Generator | None
) -> tuple[dict[str, float | int], Tensor]:
    """Return the figures of mixed latents, and these latents in float64."""
    z, _ = frozen.encode(images.to(frozen.device))
    partners = z[torch.randperm(len(z), generator=generator).to(z.device)]
    weights = torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
    mixed = z + weights * (partners - z)
    v = frozen.inverse(mixed)[0]
    back = frozen(v)[0]
    exact_z = mixed.to(oracle.device).double()
    exact_v = oracle.inverse(exact_z)[0].to(v.device, torch.float64)
    same = codec.from_flow(v) == codec.from_flow(exact_v)
    figures = {
        "count": len(mixed),
        "max": _largest(v.double() - exact_v) * 128,
        "exact": float(same.flatten(1).all(1).double().mean()),
        "latent": _largest(back - mixed) / max(_largest(mixed), 1e-30),
        "non_finite": int(_broken(v, back).sum()),
    }
    return figures, exact_z
