"""Run a comparison: seed by seed, as many as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nfaug.data.images import LabelledImages, progress_bar, split_per_class, to_tensors
from nfaug.data.open import wrap_dataset
from nfaug.io.device import pick_device
from nfaug.io.lock import lock_output

from .cells import Cells
from .classifier import Classifier
from .images import bank_of, split_images, transform_of
from .report import Comparison
from .settings import Augmentation, CompareSettings

__all__ = ["compare"]

_Split: TypeAlias = tuple[LabelledImages, Tensor, Tensor]  # see `split_images`

_FEWEST, _MOST = 300, 2000  # optimiser steps; ten passes over the labelled images in between


def compare(
    dataset: Any,
    settings: CompareSettings | None = None,
    *,
    out: str | Path,
    test: Any = None,
    progress: bool = True,
) -> Comparison:
    """Compare augmentations on a data set, by classifiers that are trained on few of its images.

    Every row adds something to the safe augmentations of `settings.augment`: nothing, NFA in
    pixels, NFA with a flow, RandAugment, TrivialAugment, or NFA before one of these. All rows of a
    seed share the labelled images, the initial weights and the order of the images. NFA's class
    statistics come from the labelled images alone.

    Cells are kept in `out`: after an interruption the same call goes on.

    Args:
        dataset: Images as `nfaug.training.wrap_dataset` takes them.
        settings: What to compare, and how long.
        out: The folder of the results: cells.csv, table.md and gains.png.
        test: Images to judge by; by default a part of each class is held out.
        progress: Show a bar.

    Raises:
        ValueError: A class has too few images, or `out` holds a comparison of something else.

    Example:
        >>> import tempfile
        >>> import nfaug.training
        >>> digits = nfaug.training.open_dataset("digits", per_class=20)
        >>> settings = nfaug.training.CompareSettings(per_class=5, seeds=2, steps=5)
        >>> out = tempfile.mkdtemp()
        >>> found = nfaug.training.compare(digits, settings, out=out, progress=False)
        >>> found.rows[0].title, len(found.rows)
        ('nothing more', 6)
    """
    data, held = wrap_dataset(dataset), None if test is None else wrap_dataset(test)
    given = settings or CompareSettings()
    split = split_images(data, held, given.per_class)
    number = len(split[0]) if given.per_class is None else given.per_class * len(data.classes)
    settings = replace(given, steps=given.steps or min(_MOST, max(_FEWEST, number // 5)))
    record = {k: v for k, v in asdict(settings).items() if k not in ("minutes", "seeds", "device")}
    record |= {"images": data.fingerprint(), "test": held and held.fingerprint()}
    record["shape"] = [data.channels, *data.image_size]
    with lock_output(Path(out)):
        cells = Cells(Path(out), record, len(split[1]))
        rows = settings.augmentations()
        try:
            _fill(cells, settings, split, progress=progress)
        finally:  # also after Ctrl-C
            if cells.seeds([row.name for row in rows]):
                found = Comparison(settings, rows, cells)
                found.write(Path(out))
    return found


def _fill(cells: Cells, settings: CompareSettings, split: _Split, *, progress: bool) -> None:
    """Train the classifiers that are missing, while the time left is enough for a seed."""
    rows = settings.augmentations()
    deadline = time.monotonic() + 60 * settings.minutes - cells.seconds
    for seed in range(settings.seeds):
        missing = [row for row in rows if (row.name, seed) not in cells]
        left = deadline - time.monotonic()
        complete = bool(cells.seeds([row.name for row in rows]))
        if complete and missing and left < cells.seconds / len(cells) * len(missing):
            return
        with progress_bar(
            len(missing), f"seed {seed + 1}", "classifier", shown=progress and bool(missing)
        ) as bar:
            for row, right, seconds in _trained(missing, seed, settings, split):
                cells.add(row.name, seed, right, seconds)
                left = max(0.0, deadline - time.monotonic()) / 60
                bar.set_description_str(f"seed {seed + 1}, {left:.1f} min left", refresh=False)
                bar.update()


def _trained(
    rows: list[Augmentation], seed: int, settings: CompareSettings, split: _Split
) -> Iterator[tuple[Augmentation, Tensor, float]]:
    """A classifier for each row: which validation images it gets right, and its seconds."""
    pool, validation, expected = split
    few = pool if settings.per_class is None else split_per_class(pool, settings.per_class, seed)[0]
    images, labels = to_tensors(few, progress=False)
    device, shape = pick_device(settings.device), (few.channels, *few.image_size)
    banks: dict[str, Tensor | None] = {"": None}
    for row in rows:
        started = time.monotonic()
        if row.flow not in banks:
            banks[row.flow] = bank_of(row.flow, few, settings.variants, seed, device)
        transform = transform_of(settings.safe, row.policy, few.image_size)
        draw = _draw(images, labels, banks[row.flow], settings.p, transform)
        classifier = Classifier(
            settings.network, settings.weights, shape, len(few.classes), seed, device
        )
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            steps, lr = settings.steps or 1, settings.lr
            classifier.train(draw, len(labels), steps=steps, seed=seed, lr=lr)
        yield row, classifier.right(validation, expected), time.monotonic() - started


def _draw(
    images: Tensor,
    labels: Tensor,
    bank: Tensor | None,
    p: float,
    transform: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Augmented batches with their labels: a variant with probability p, then the transform."""

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = images[rows]
        if bank is not None:
            variant = bank[rows, torch.randint(bank.shape[1], rows.shape)]
            replaced = torch.rand(len(rows)) < p
            batch = torch.where(replaced[:, None, None, None], variant, batch)
        return transform(batch), labels[rows]

    return draw
