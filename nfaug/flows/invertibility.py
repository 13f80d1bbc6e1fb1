"""Numerical invertibility of a flow (Behrmann et al. 2021, arXiv:2006.09347).

A flow that is a bijection in exact arithmetic can lose digits in floating point, especially far
from its training data. Round trips are measured on images, on extreme images and on mixed latents;
the latter are compared with the same flow in float64.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .codec import crop, from_flow
from .flow import Flow
from .networks import DisableTF32

__all__ = ["extreme_images", "measure"]

_MOST = 256  # images of an extreme set
_MIXED = 64  # latents that are compared with float64


@torch.no_grad()
def measure(
    flow: Flow,
    images: Tensor,
    *,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> dict[str, dict[str, float | int]]:
    """Measure round trips of the frozen flow.

    Args:
        flow: The flow, frozen or not.
        images: uint8 of shape (N, C, H, W), the flow's image size.
        batch_size: Images per batch.
        generator: Source of randomness: noise images, pairs and weights.

    Returns:
        One entry per set of images ("images" and those of `extreme_images`):

        - "count": number of images.
        - "max": largest |x' - x| in grey levels, unquantised, for the round trip x -> z -> x'; of
          finite values only.
        - "exact": share of images whose round trip returns every 8-bit level.
        - "non_finite": number of images with a value or latent that is not finite.

        The entry "mixed" is for 64 latents, each a mixture of the latents of two images. Its "max"
        and "exact" compare decoded images with those of the same flow in float64.

    Raises:
        ValueError: If images do not fit the flow, or it works on autoencoder latents.
    """
    if not flow.codec.exact:
        raise ValueError(
            "invertibility is measured in grey levels; this flow works on autoencoder latents"
        )
    if images.dtype != torch.uint8 or not len(images):
        raise ValueError(f"images must be uint8 and not empty; got {images.dtype} {images.shape}")
    frozen = flow.freeze()
    sets = {"images": images, **extreme_images(images, generator=generator)}
    with DisableTF32(flow.device):
        report = {name: _round_trip(frozen, batch, batch_size) for name, batch in sets.items()}
        report["mixed"] = _mixed(flow, frozen, images[:_MIXED], generator)
    return report


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


def _round_trip(frozen: Flow, images: Tensor, batch_size: int) -> dict[str, float | int]:
    largest, exact, non_finite = 0.0, 0, 0
    for part in images.split(batch_size):
        batch = part.to(frozen.device)
        z = frozen.encode(batch)[0]
        v = frozen.inverse(z)[0]
        levels = crop((v + 1) * 128 - 0.5, frozen.config.image_size)
        largest = max(largest, _largest(levels - batch))
        exact += int((frozen.decode(z) == batch).flatten(1).all(1).sum())
        finite = (z + v).flatten(1).isfinite().all(1)
        non_finite += int((~finite).sum())
    share = exact / len(images)
    return {"count": len(images), "max": largest, "exact": share, "non_finite": non_finite}


def _mixed(
    flow: Flow, frozen: Flow, images: Tensor, generator: torch.Generator | None
) -> dict[str, float | int]:
    """Compare decoded mixtures of latents with those of the flow in float64."""
    device = torch.device("cpu") if flow.device.type == "mps" else flow.device  # no float64 on MPS
    oracle = copy.deepcopy(flow).to(device).double().freeze()
    z = frozen.encode(images.to(frozen.device))[0]
    partners = z[torch.randperm(len(z), generator=generator).to(z.device)]
    weights = torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
    mixed = z + weights * (partners - z)
    v = frozen.inverse(mixed)[0].to(device)
    exact_v = oracle.inverse(mixed.to(device).double())[0]
    same = (from_flow(v) == from_flow(exact_v)).flatten(1).all(1)
    return {
        "count": len(mixed),
        "max": _largest(v.double() - exact_v) * 128,
        "exact": float(same.double().mean()),
        "non_finite": int((~v.flatten(1).isfinite().all(1)).sum()),
    }


def _largest(values: Tensor) -> float:
    """Return the largest absolute value of the finite values."""
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if len(finite) else 0.0
