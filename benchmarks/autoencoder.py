"""What an autoencoder loses, and what it costs; prints three tables.

    python benchmarks/autoencoder.py --autoencoder taef2.safetensors --data photos.tar

The first: PSNR of reconstructions over all pixels of --count images, at 128 pixels and resized to
224, in float32 and as the package decodes (bfloat16 where it is fast, see `TinyAutoencoder`). The
second: milliseconds of one thread an image to encode and to decode, before and after each step of
the work on speed, the best of --repeats interleaved rounds. The third: a bank of --variants
variants of --bank images (without a gate: every variant is decoded), and what one of 1,000 images
and 20 variants would take.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

import nfaug
from nfaug.bank import make_bank
from nfaug.checkpoint.autoencoder import open_autoencoder, open_codec
from nfaug.data.open import open_dataset
from nfaug.flows import tiny_autoencoder

SIZE, LARGE = 128, 224


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--autoencoder", required=True, help="what nfaug.fit takes")
    parser.add_argument("--data", required=True, help="photographs of 128 pixels or more")
    parser.add_argument("--count", type=int, default=100, help="images of the first table")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the second table")
    parser.add_argument("--bank", type=int, default=40, help="images of the third table")
    parser.add_argument("--variants", type=int, default=20)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = open_dataset(options.data, image_size=SIZE)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    images = torch.stack([dataset[row][0] for row in order[: options.count].tolist()])
    print("| pixels | PSNR, float32 | PSNR | of the second to the first |\n|---|---|---|---|")
    for size in (SIZE, LARGE):
        print(quality(options.autoencoder, images, size))
    print("\n| | encode, ms | decode, ms |\n|---|---|---|")
    for name, times in speed(options.autoencoder, images[:64], options.repeats).items():
        print(f"| {name} | {times[0]:.0f} | {times[1]:.0f} |")
    part = dataset.subset(order[: options.bank])
    fitted = nfaug.fit(
        "builtin:pixels", dataset, autoencoder=options.autoencoder, per_class=16, rank=8
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        make_bank(fitted, part, f"{folder}/bank", variants=options.variants, gate=None)
        seconds = time.process_time() - start
    each = seconds / len(part) / options.variants
    print("\n| images | variants | s | variants/s | 1,000 x 20, minutes |\n|---|---|---|---|---|")
    shown = f"{seconds:.1f} | {1 / each:.0f} | {each * 1000 / 3:.1f}"
    print(f"| {len(part)} | {options.variants} | {shown} |")


def float32() -> Any:
    return mock.patch.object(tiny_autoencoder, "has_matrix_units", return_value=False)


def quality(source: str, images: Tensor, size: int) -> str:
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    images = resized.round().clamp(0, 255).to(torch.uint8)
    codec = open_codec(source, images)
    latents = codec.prepare(images)
    fast = codec.to_images(latents, quantize=False)
    with float32():
        exact = codec.to_images(latents, quantize=False)
    true = images / 255
    figures = psnr(exact, true), psnr(fast, true), psnr(fast, exact)
    return f"| {size} | {' | '.join(f'{figure:.2f} dB' for figure in figures)} |"


def psnr(x: Tensor, y: Tensor) -> float:
    """-10 log10 of the mean squared error over all images, in dB; infinite for equal ones."""
    return float(-10 * (x - y).square().mean().log10())


def speed(source: str, images: Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds an image of encoding and of decoding."""
    model, codec = open_autoencoder(source), open_codec(source, images)
    low, high = model.input_range
    x, latents = images / 255 * (high - low) + low, codec.prepare(images)
    z = latents * torch.tensor(codec.record.std)[:, None, None]  # the mean costs no time
    last_x, last_z = (part.contiguous(memory_format=torch.channels_last) for part in (x, z))
    package = (lambda: codec.prepare(images), lambda: codec.to_images(latents))
    rows = {
        "before: float32, 64 images at once": (lambda: model.encode(x), lambda: model.decode(z)),
        "and channels-last": (lambda: model.encode(last_x), lambda: model.decode(last_z)),
        "and 4 images at once": package,
        "and bfloat16 where it is fast: as the package does": package,
    }
    best = {name: [float("inf")] * 2 for name in rows}
    for _ in range(repeats):
        for name, calls in rows.items():
            with contextlib.nullcontext() if "bfloat16" in name else float32(), torch.no_grad():
                for index, call in enumerate(calls):
                    start = time.process_time()
                    call()
                    taken = (time.process_time() - start) / len(images)
                    best[name][index] = min(best[name][index], 1000 * taken)
    return best


if __name__ == "__main__":
    main()
