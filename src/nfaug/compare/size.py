"""The size of images at which networks are trained, if none is given, and how long that takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic

import torch

from nfaug.data.images import LabelledImages
from nfaug.fitting.opening import common_size
from nfaug.io.errors import reading
from nfaug.io.strict_json import read_json

from .classifier import BATCH, FINE_TUNED_BATCH, Classifier, default_steps
from .config import CompareConfig
from .figures import LEAST_SEEDS
from .frozen import input_size
from .rows import Row

_SMALL = 48  # the longest side by default for small-cnn
_LARGE = 96  # and for a timm model


def sized(
    data: LabelledImages, config: CompareConfig, out: str | Path, processes: int
) -> LabelledImages:
    """The images at their own size, at most 48 pixels for small-cnn and 96 for a timm model.

    A pretrained network is fine-tuned at its own resolution if three seeds of all rows fit into
    the time. A comparison in `out` that goes on keeps its size.
    """
    record = Path(out).expanduser() / "settings.json"
    if record.exists():
        with reading(record):
            _, height, width = read_json(record).get("shape", (0, 1, 1))
        return data.at((int(height), int(width)))
    if config.pretrained:
        side, _ = input_size(config)
        trained = sum(1 for row in config.table() if not row.frozen)
        counts = torch.bincount(data.targets).clamp(max=config.per_class or len(data))
        steps = config.steps or default_steps(config, int(counts.sum()))
        timed = dataclasses.replace(config, steps=steps)
        shape = (data.channels, side, side)
        seconds = seconds_of(timed, shape, len(data.classes)) * trained / processes
        if LEAST_SEEDS * seconds < 60 * config.minutes:
            return data.at(side)
    longest = _SMALL if config.network == "small-cnn" else _LARGE
    height, width = common_size(data, longest)
    scale = min(1.0, longest / max(height, width))
    size = (max(8, round(height * scale)), max(8, round(width * scale)))  # small-cnn needs 8
    return data.at(size)


def seconds_of(
    config: CompareConfig, shape: tuple[int, int, int], classes: int, threads: int = 1
) -> float:
    """What a training and its test take on images (C, H, W), from three steps and a batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        three = dataclasses.replace(config, steps=3)
        classifier = Classifier(three, shape, classes, seed=0)
        count = FINE_TUNED_BATCH if config.pretrained else BATCH
        images = torch.zeros((count, *shape), dtype=torch.uint8)
        labels = torch.zeros(count, dtype=torch.int64)
        times = []

        def draw(_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            times.append(monotonic())
            return images, labels

        classifier.train(draw, count)
        times.append(monotonic())
        a_step = min(end - start for start, end in pairwise(times))
        classifier.right(images, labels)
        an_image = (monotonic() - times[-1]) / count
    finally:
        torch.set_num_threads(before)
    return (config.steps or 0) * a_step + config.test_images * an_image


def check_time(
    config: CompareConfig,
    rows: Sequence[Row],
    shape: tuple[int, int, int],
    classes: int,
    processes: int,
) -> None:
    """Refuse a comparison that would find, after hours, that its time is too short.

    Raises:
        TimeoutError: Three seeds of the rows that are never left out take more than twice the time.
    """
    trained = [row for row in rows if not row.frozen]
    kept = [row for row in trained if not row.policy]
    if not kept:
        return
    threads = torch.get_num_threads() if processes == 1 else 1
    seconds = seconds_of(config, shape, classes, threads)
    seeds = min(LEAST_SEEDS, config.seeds)
    least, all_rows = (seconds * len(some) * seeds / processes / 60 for some in (kept, trained))
    if least > 2 * config.minutes:
        _, height, width = shape
        raise TimeoutError(
            f"{config.network} at {height} x {width} pixels takes about {seconds / 60:.0f} minutes "
            f"for {config.steps} steps, and {seeds} seeds do not fit into {config.minutes:g} "
            f"minutes: pass --minutes {math.ceil(1.2 * all_rows)}, fewer --steps or a smaller "
            "--image-size"
        )
