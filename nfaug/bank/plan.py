"""What a bank or a run with NFA costs, from a short measurement on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .format import bank_bytes

__all__ = ["plan_cost"]

_BATCH = 64


@torch.no_grad()
def plan_cost(
    checkpoint: Any,
    *,
    images: int,
    variants: int = 4,
    size: int | None = None,
    p: float = 0.5,
    processes: int = 1,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Bytes, FLOPs and hours of a bank, and of an epoch with NFA in the loop.

    A bank encodes each image once and decodes it for each variant. An epoch encodes and decodes a
    share p of the images. On an autoencoder's latents, the unmixed latent of each of these images
    is decoded once more. FLOPs are those of the flow, without the autoencoder. Hours are measured
    with the autoencoder, without reading images, and are those of n processes that each compute at
    the speed of this one.

    Args:
        checkpoint: The checkpoint whose flow is measured, on its device.
        images: Number of images N.
        variants: Variants V of each image.
        size: Side in pixels of the images; the flow's size by default.
        p: Share of images that are augmented in a run.
        processes: Number of processes n.
        seconds: Time of the measurement, half of it for encoding.

    Raises:
        ValueError: A number is out of range.
    """
    if min(images, variants, processes, 1 if size is None else size) < 1 or seconds <= 0:
        raise ValueError(
            "images, variants, size, processes and seconds must be positive; got "
            f"{images}, {variants}, {size}, {processes} and {seconds}"
        )
    flow, codec = checkpoint.flow.freeze(), checkpoint.flow.codec
    height, width = codec.image_size if size is None else (size, size)
    shape = (_BATCH, codec.channels, *codec.image_size)
    batch = torch.randint(256, shape, dtype=torch.uint8).to(flow.device)
    latents = flow.encode(batch)[0]
    encode = _seconds_per_image(lambda: flow.encode(batch), seconds / 2, flow.device)
    decode = _seconds_per_image(lambda: flow.decode(latents), seconds / 2, flow.device)
    unmixed = 0 if codec.exact else 1  # decodes of the latent before mixing
    work = images * (encode + (variants + unmixed) * decode) / 3600
    epoch = images * p * (encode + (1 + unmixed) * decode) / 3600
    pixels = (codec.channels, height, width)
    return {
        "images": images,
        "variants": variants,
        "image_size": [height, width],
        "processes": processes,
        "bank": {
            "bytes": bank_bytes(images, variants, pixels),
            "bytes_residual": bank_bytes(
                images, variants, (codec.channels, *codec.image_size), residual=True
            ),
            "flop": images * (1 + variants + unmixed) * flow.config.flop,
            "hours_of_one_process": work,
            "hours": work / processes,
        },
        "online": {
            "p": p,
            "flop_per_epoch": round((2 + unmixed) * p * images * flow.config.flop),
            "hours_per_epoch": epoch / processes,
        },
        "measured": {
            "device": str(flow.device),
            "threads": torch.get_num_threads(),
            "encode_images_per_second": 1 / encode,
            "decode_images_per_second": 1 / decode,
        },
    }


def _seconds_per_image(job: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """The median of the batches that fit in the time; one first that does not count."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        _wait(device)
        start = time.perf_counter()
        job()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / _BATCH


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
