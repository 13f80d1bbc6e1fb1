"""Parts on files: images/s of a fit and of a bank of JPEGs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

import nfaug
from nfaug.bank import make_bank
from nfaug.data.batches import decode

from .card import Card

__all__ = ["bank", "fit"]


@contextmanager
def _jpegs(card: Card) -> Iterator[tuple[Path, int]]:
    """A folder of JPEGs of 500 x 375 pixels and about 100 kB, and their number."""
    classes = 2 if card.tiny else 8
    each = 4 if card.tiny else 500
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs = []
        for label in range(classes):
            (root / str(label)).mkdir()
            for number in range(each):
                jobs.append((root / str(label) / f"{number}.jpg", label * each + number))
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for _ in threads.map(_write, jobs):
                pass
        yield root, len(jobs)


def _write(job: tuple[Path, int]) -> None:
    file, seed = job
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 94, 125, generator=generator)
    image = F.interpolate(coarse, (375, 500), mode="bicubic")[0] * 45 + 128
    image += 9 * torch.randn(image.shape, generator=generator)
    pixels = image.clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, quality=90)


def fit(card: Card) -> None:
    """A fit of JPEGs, and their decoding alone."""
    large = 64 if card.tiny else 128
    with _jpegs(card) as (root, count):
        for name, size in (("rgb32", 32), ("pixels", large)):
            with card.case(f"{name}, {size} px"):
                data = nfaug.open_dataset(str(root), image_size=size, channels=3)
                start = time.perf_counter()
                decode(data, progress=False)
                decoded = time.perf_counter()
                flow = card.bundled(name)
                opened = time.perf_counter()
                rank = 3 if card.tiny else 64
                memory = card.peak(
                    lambda flow=flow, data=data, rank=rank: nfaug.fit(
                        flow, data, rank=rank, progress=False
                    )
                )
                card.note(
                    f"{name}, {size} px",
                    images=count,
                    images_per_s=count / (time.perf_counter() - opened),
                    decoding_alone=count / (decoded - start),
                    peak_MiB=memory,
                )


def bank(card: Card) -> None:
    """A bank of four variants of JPEGs, by workers and batch size."""
    several = min(16, os.cpu_count() or 1)
    cases = [(0, 4)] if card.tiny else [(0, 64), (several, 64), (several, 256)]
    with _jpegs(card) as (root, count):
        data = nfaug.open_dataset(str(root), image_size=32, channels=3)
        rank = 3 if card.tiny else 64
        checkpoint = nfaug.fit(card.bundled("rgb32"), data, rank=rank, progress=False)
        for workers, batch in cases:
            with card.case(f"{workers} workers, batch {batch}"):
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    make_bank(
                        checkpoint, data, Path(folder) / "bank", variants=4,
                        workers=workers, batch_size=batch, progress=False,
                    )  # fmt: skip
                    took = time.perf_counter() - start
                card.note(f"{workers} workers, batch {batch}", images_per_s=count / took)
