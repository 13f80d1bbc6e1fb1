"""The size of images at which networks are trained, if none is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from time import monotonic

import torch

from nfaug.data.images import LabelledImages
from nfaug.fitting.opening import common_size
from nfaug.io.errors import reading
from nfaug.io.strict_json import read_json

from .classifier import FINE_TUNED_BATCH, Classifier, default_steps
from .config import CompareConfig
from .figures import LEAST_SEEDS
from .frozen import input_size

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
        seconds = _seconds(timed, data.channels, side, len(data.classes)) * trained / processes
        if LEAST_SEEDS * seconds < 60 * config.minutes:
            return data.at(side)
    longest = _SMALL if config.network == "small-cnn" else _LARGE
    height, width = common_size(data, longest)
    scale = min(1.0, longest / max(height, width))
    size = (max(8, round(height * scale)), max(8, round(width * scale)))  # small-cnn needs 8
    return data.at(size)


def _seconds(config: CompareConfig, channels: int, side: int, classes: int) -> float:
    """What a fine-tuning and its test take at this size, from two steps and a batch of images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each process has
    try:
        three = dataclasses.replace(config, steps=3)
        classifier = Classifier(three, (channels, side, side), classes, seed=0)
        images = torch.zeros((FINE_TUNED_BATCH, channels, side, side), dtype=torch.uint8)
        labels = torch.zeros(FINE_TUNED_BATCH, dtype=torch.int64)
        times = []

        def draw(_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            times.append(monotonic())
            return images, labels

        classifier.train(draw, FINE_TUNED_BATCH)
        a_step = monotonic() - times[-1]
        started = monotonic()
        classifier.right(images, labels)
        an_image = (monotonic() - started) / FINE_TUNED_BATCH
    finally:
        torch.set_num_threads(threads)
    return (config.steps or 0) * a_step + config.test_images * an_image
