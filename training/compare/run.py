"""Run a comparison: seed by seed, as many as the time allows."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfaug.data.images import LabelledImages, TensorImages, progress_bar
from nfaug.data.open import wrap_dataset
from nfaug.io.device import pick_device
from nfaug.io.lock import lock_output

from .cells import Cells
from .classifier import Classifier
from .images import bank_of, split_images, transform_of
from .report import Comparison
from .settings import Augmentation, CompareSettings

__all__ = ["compare"]

_FEWEST, _MOST = 150, 2000  # steps, where `minutes` decides; they leave time for five seeds


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
        >>> import nfaug.training
        >>> digits = nfaug.training.open_dataset("digits", per_class=20)
        >>> settings = nfaug.training.CompareSettings(per_class=5, seeds=2, steps=5)
        >>> found = nfaug.training.compare(digits, settings, out="comparison", progress=False)
        >>> found.rows[0].title, len(found.rows)
        ('nothing more', 6)
    """
    settings = settings or CompareSettings()
    data, held = wrap_dataset(dataset), None if test is None else wrap_dataset(test)
    with lock_output(Path(out)):
        run = _Run(data, settings, held, Path(out))
        try:
            run.go(progress=progress)
        finally:  # also after Ctrl-C
            found = Comparison(replace(settings, steps=run.steps), run.rows, run.cells)
            if found.seeds:
                found.write(Path(out))
    return found


class _Run:
    """The images, cells and number of steps of a comparison."""

    def __init__(
        self, data: LabelledImages, settings: CompareSettings, test: Any, out: Path
    ) -> None:
        self.settings, self.rows = settings, settings.augmentations()
        self.shape, self.classes = (data.channels, *data.image_size), data.classes
        self.device = pick_device(settings.device)
        self.split = split_images(data, test, settings.per_class)
        given = {
            k: v for k, v in asdict(settings).items() if k not in ("minutes", "seeds", "device")
        }
        record = {**given, "images": data.fingerprint(), "shape": self.shape}
        self.started = time.monotonic()
        if settings.steps is None and not (out / "settings.json").exists():
            record["steps"] = self._suitable_steps()
        self.cells = Cells(out, record, len(self.split.labels))
        self.steps: int = self.cells.settings["steps"]

    def _classifier(self, seed: int) -> Classifier:
        network, weights = self.settings.network, self.settings.weights
        return Classifier(network, weights, self.shape, len(self.classes), seed, self.device)

    def _suitable_steps(self) -> int:
        images, labels = self.split.labelled(self.settings.per_class, 0)
        draw = self._draw(self.rows[-1], images, images[:, None])
        trial = self._classifier(0).train(draw, labels, steps=12, seed=0)
        next(trial), next(trial)  # the first steps are slow
        started = time.monotonic()
        steps = sum(1 for _ in trial)
        each = (time.monotonic() - started) / steps
        share = 0.8 * 60 * self.settings.minutes / len(self.rows) / 5
        return min(_MOST, max(_FEWEST, int(share / each)))

    def _draw(self, row: Augmentation, images: Tensor, bank: Tensor | None) -> Any:
        transform = transform_of(self.settings.safe, row.policy, (self.shape[1], self.shape[2]))

        def draw(rows: Tensor) -> Tensor:
            batch = images[rows]
            if bank is not None:
                replaced = torch.rand(len(rows)) < self.settings.p
                variant = bank[rows, torch.randint(bank.shape[1], rows.shape)]
                batch = torch.where(replaced[:, None, None, None], variant, batch)
            return torch.stack([transform(image) for image in batch])

        return draw

    def go(self, *, progress: bool) -> None:
        """Train the classifiers that are missing, while the time left is enough for a seed."""
        names = [row.name for row in self.rows]
        deadline = self.started + 60 * self.settings.minutes - self.cells.seconds
        for seed in range(self.settings.seeds):
            missing = [row for row in self.rows if (row.name, seed) not in self.cells]
            done, left = len(self.cells.seeds(names)), deadline - time.monotonic()
            if missing and done and left < self.cells.seconds / len(self.cells) * len(missing):
                break
            title = f"seed {seed + 1}, {max(0.0, left) / 60:.1f} min left"
            total = len(missing) * self.steps
            with progress_bar(total, title, "step", shown=progress and total > 0) as bar:
                self._seed(missing, seed, bar)

    def _seed(self, rows: list[Augmentation], seed: int, bar: Any) -> None:
        images, labels = self.split.labelled(self.settings.per_class, seed)
        few = TensorImages(images, labels, self.classes)
        banks: dict[str, Tensor] = {}
        for row in rows:
            started = time.monotonic()
            if row.flow and row.flow not in banks:
                variants = self.settings.variants
                banks[row.flow] = bank_of(row.flow, few, variants, seed, self.device)
            draw = self._draw(row, images, banks.get(row.flow))
            classifier = self._classifier(seed)
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                torch.default_generator.manual_seed(seed)
                for _ in classifier.train(draw, labels, steps=self.steps, seed=seed):
                    bar.update()
            right = classifier.right(self.split.images, self.split.labels)
            self.cells.add(row.name, seed, right, time.monotonic() - started)
