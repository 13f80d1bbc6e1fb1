"""Run a comparison: as many rows and seeds as the time allows."""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.checkpoint.manifest import read_manifest
from nfaug.checkpoint.resolve import read_resolved
from nfaug.data.decode import converter_of
from nfaug.data.images import LabelledImages
from nfaug.data.open import wrap_dataset
from nfaug.data.sources.folders import FolderReader
from nfaug.fitting import load_base
from nfaug.io.atomic import write_bytes, write_text
from nfaug.io.lock import lock_output
from nfaug.io.tensors import read_tensors
from nfaug.io.text import printable

from .cells import Cells
from .classifier import Classifier
from .config import CompareConfig
from .frozen import input_size
from .images import (
    check_shape,
    groups_of,
    labelled_images,
    large_classes,
    split_images,
)
from .leaks import warn_of_memory, without_copies
from .report.comparison import Comparison
from .report.figures import Cell
from .report.pictures import variants_picture
from .report.script import Source, script_of, timm_lines
from .rows import PIXELS, Row
from .schedule import next_cell
from .work import JUDGED, read_part, write_part
from .workers import Workers

__all__ = ["compare"]

_CHUNK = 64  # images whose features are a job


def compare(
    data: Any,
    out: str | Path,
    *,
    config: CompareConfig | None = None,
    test_data: Any = None,
    names: tuple[str, str | None] | None = None,
    processes: int = 1,
    progress: bool = True,
) -> Comparison:
    """Compare augmentations on a dataset, by classifiers that are trained on few of its images.

    With pretrained weights, the first rows are logistic regression on the features of the frozen
    network, alone and with variants; then the network is fine-tuned. Every other row adds something
    to the safe augmentations of `config.augment`: nothing, RandAugment (arXiv:1909.13719),
    TrivialAugment (arXiv:2103.10158), NFA in pixels, NFA with another checkpoint, or NFA before one
    of these. All rows of a seed share the labelled
    images, the initial weights and the order of the images. NFA's class statistics come from the
    labelled images alone.

    Cells are kept in `out`: after an interruption the same call continues.

    Args:
        data: Images as `nfaug.wrap_dataset` takes them.
        out: The folder of the results: cells.csv, table.md, train.py, gains.png and variants.png.
        config: What to compare, and how long.
        test_data: Images to judge by, none of which are trained on; by default a part of each class
            is held out.
        names: How `open_dataset` names the images, and those to judge by, for the script; by
            default the folders that they lie in.
        processes: How many classifiers are trained at once, each with one thread. With one, they
            are trained in this process, with torch's threads.
        progress: Print each result on standard error.

    Returns:
        The rows, with their accuracy in per cent and their gains in points, a table and advice.

    Raises:
        ValueError: A class has too few images, an image to judge by is trained on, there is a
            checkpoint and no `test_data`, or `out` holds a comparison of something else.
        FileExistsError: `out` holds other files than a comparison's.

    Example:
        >>> from tempfile import mkdtemp
        >>> from nfaug.compare import CompareConfig, compare
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, seeds=1, steps=5)
        >>> comparison = compare(digits, mkdtemp(), config=config, progress=False)
        >>> comparison.title(comparison.rows[0]), len(comparison.rows)
        ('nothing more', 6)
    """
    started = monotonic()
    config = config or CompareConfig()
    trained_flows = [flow for flow in config.checkpoint if flow != PIXELS]
    if trained_flows and test_data is None:
        raise ValueError(
            f"the flow {trained_flows[0]} may have been trained on images that are held out to "
            "judge by: pass test_data (--test-data), images that it was not trained on"
        )
    images = wrap_dataset(data)
    test_images = None if test_data is None else wrap_dataset(test_data)
    check_shape(images, config)
    # Errors of flows and weights come here, before `out` holds anything and before any training.
    bases = {name: load_base(name, None) for name in config.checkpoint}
    record = _record(config, images, test_images, bases)
    images, test_images = large_classes(images, test_images, config.min_images)
    pool, judged = split_images(images, test_images, config.per_class, config.group)
    classifier = Classifier(config, record["shape"], len(images.classes), seed=0)
    config = replace(config, steps=config.steps or _default_steps(config, pool))
    record["steps"] = config.steps
    judged = without_copies(pool, judged, config, held_out=test_images is None)
    if len(judged) > config.test_images:
        order = torch.randperm(len(judged), generator=torch.Generator().manual_seed(0))
        judged = judged.subset(order[: config.test_images].sort().values)
    for name in trained_flows:
        warn_of_memory(name, bases[name], judged)
    source = _source(record["shape"], images, test_images, names, classifier)
    folder = Path(out).expanduser()
    with lock_output(folder), tempfile.TemporaryDirectory(prefix="nfaug-compare-") as decoded:
        cells = Cells(folder, record, len(judged))
        run = _Run(config, cells, pool, judged, Path(decoded), processes, started, progress)
        try:
            run.fill()
        finally:  # also after Ctrl-C
            comparison = run.report(source)
    return comparison


def _default_steps(config: CompareConfig, pool: LabelledImages) -> int:
    """Ten passes over the labelled images, at least 800 steps (fine-tuned 300), at most 2,000."""
    least = 800 if config.weights is None else 300
    return min(2000, max(least, len(labelled_images(pool, config, 0)) // 5))


def _record(
    config: CompareConfig,
    data: LabelledImages,
    test_data: LabelledImages | None,
    bases: Mapping[str, Checkpoint],
) -> dict[str, Any]:
    """What the results depend on; a comparison goes on only while it is the same.

    Raises:
        ValueError: A flow takes other images than these, or a file of weights is damaged.
    """
    record = asdict(config)
    for name in ("rows", "minutes", "seeds", "device"):  # they may change when it goes on
        del record[name]
    record["lr"] = config.learning_rate
    record["images"] = data.fingerprint()
    record["test"] = None if test_data is None else test_data.fingerprint()
    record["shape"] = [data.channels, *data.image_size]
    for name, base in bases.items():
        flow = base.flow
        if base.config.training.get("images_sha256", "") == record["test"]:
            raise ValueError(
                f"{name} was trained on the images to judge by, and NFA would be judged too well: "
                "pass others as test_data (--test-data)"
            )
        manifest = read_resolved(read_manifest, name, whole=False)
        record[f"files of {name}"] = manifest["files"]
        if not flow.shape_free and flow.codec.channels != data.channels:
            raise ValueError(
                f"{name} takes images of {flow.codec.channels} channels; the data have "
                f"{data.channels}"
            )
    if config.weights is not None:
        file = Path(config.weights)
        read_tensors(file)  # for a damaged file timm raises no ValueError
        del record["weights"]  # the path
        record["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return record


def _source(
    shape: list[int],
    data: LabelledImages,
    test_data: LabelledImages | None,
    names: tuple[str, str | None] | None,
    classifier: Classifier,
) -> Source:
    """Where a script finds the images."""
    readers = [data.reader] if test_data is None else [data.reader, test_data.reader]
    places = []
    for reader in readers:
        if isinstance(reader, FolderReader):
            places.append(str(reader.root))
    folders = len(places) == len(readers)
    if not folders:
        places = ["my-images", "my-test-images"][: len(readers)]
        if names is not None:
            places = [name for name in names if name is not None]
    channels, height, width = shape
    return Source(
        (channels, height, width),
        len(data.classes),
        places[0],
        places[1] if test_data is not None else None,
        folders or names is None,
        classifier.mean.flatten().expand(channels).tolist(),
        classifier.std.flatten().expand(channels).tolist(),
    )


class _Run:
    """A comparison that runs."""

    def __init__(
        self,
        config: CompareConfig,
        cells: Cells,
        pool: LabelledImages,
        judged: LabelledImages,
        images: Path,
        processes: int,
        started: float,
        progress: bool,
    ) -> None:
        self.config = config
        self.cells = cells
        self.pool = pool
        self.judged = judged
        self.images = images
        self.processes = processes
        self.started = started
        self.progress = progress
        self.rows = config.table()
        self.total = 60 * config.minutes
        self.deadline = started + self.total - cells.seconds / processes
        self.side: int | None = None  # of the images that a frozen network reads
        if any(row.frozen for row in self.rows):
            _, self.side = input_size(config)

    def fill(self) -> None:
        """Compute the cells that are missing, while the time left is enough for one."""
        known: dict[tuple[Row, int], float | None] = {}
        for row in self.rows:
            for seed in self.cells.seeds(row):
                known[row, seed] = self.cells[row.name, seed].seconds
        if self._next(known) is None:
            return
        classes = len(self.pool.classes)
        running: dict[Future[Cell], tuple[Row, int]] = {}
        with Workers(self.images, self.config, classes, self.processes) as workers:
            # The processes import torch meanwhile.
            write_part(self.images, JUDGED, self.judged, self._groups(self.judged), self.side)
            if self.side is not None:
                self._judged_features(workers)
            while True:
                while len(running) < self.processes:
                    job = self._next(known)
                    if job is None:
                        break
                    row, seed = job
                    self._prepare(seed)
                    known[job] = None
                    running[workers.cell(row, seed)] = job
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    row, seed = running.pop(future)
                    cell = future.result()
                    known[row, seed] = cell.seconds
                    self.cells.add(row.name, seed, *cell)
                    self._say(row, seed, cell)

    def _next(self, known: dict[tuple[Row, int], float | None]) -> tuple[Row, int] | None:
        left = self.deadline - monotonic()
        return next_cell(self.rows, known, self.config.seeds, left, self.processes, self.total)

    def _judged_features(self, workers: Workers) -> None:
        """Features of the images to judge by, kept in the folder of results."""
        kept = self.cells.file.parent / "features.npy"
        if not kept.exists():
            starts = range(0, len(self.judged), _CHUNK)
            parts = [workers.features(n, min(n + _CHUNK, len(self.judged))) for n in starts]
            features = np.concatenate([part.result() for part in parts])
            stored = io.BytesIO()
            np.save(stored, features)
            write_bytes(kept, stored.getvalue())
        (self.images / f"{JUDGED}-features.npy").write_bytes(kept.read_bytes())

    def _prepare(self, seed: int) -> None:
        """Decode the labelled images of a seed."""
        name = f"seed-{seed}"
        if not (self.images / f"{name}-labels.npy").exists():
            few = labelled_images(self.pool, self.config, seed)
            write_part(self.images, name, few, self._groups(few), self.side)

    def _groups(self, data: LabelledImages) -> Tensor:
        """The number of each image's group; without groups, each is one of its own."""
        if self.config.group is None:
            return torch.arange(len(data))
        _, numbers = np.unique(groups_of(data, self.config.group), return_inverse=True)
        return torch.from_numpy(numbers)

    def _say(self, row: Row, seed: int, cell: Cell) -> None:
        """Print a result."""
        if self.progress:
            title = self._comparison(1).title(row)
            left = max(0.0, self.deadline - monotonic())
            line = f"{title}, seed {seed}: {cell.accuracy:.1f}% ({cell.seconds:.0f} s)"
            print(f"{printable(line)}; {left:.0f} s left", file=sys.stderr, flush=True)

    def _comparison(self, look: int) -> Comparison:
        names = self.judged.paths
        if names is None:
            names = [self.judged.name(index) for index in range(len(self.judged))]
        return Comparison(
            self.config,
            self.cells,
            look=look,
            processes=self.processes,
            names=names,
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        """What is to be said of the data."""
        notes = []
        few = labelled_images(self.pool, self.config, 0)
        counts = torch.bincount(few.targets, minlength=len(few.classes)).tolist()
        pairs = list(zip(few.classes, counts, strict=True))
        smaller = [f"{name} ({count})" for name, count in pairs if count < max(counts)]
        if smaller and self.config.per_class is not None:
            more = ", ..." if len(smaller) > 5 else ""
            notes.append(f"Classes with fewer labelled images: {', '.join(smaller[:5])}{more}.")
        alone = [name for name, count in pairs if count == 1]
        if alone:
            notes.append(
                f"{len(alone)} classes have one labelled image: NFA mixes two, and leaves such "
                "images as they are."
            )
        skipped = self.pool.skipped
        if skipped:
            more = ", ..." if len(skipped) > 5 else ""
            note = f"{len(skipped)} files were not read: {', '.join(skipped[:5])}{more}."
            packages = {converter_of(name) for name in skipped} - {None}
            if packages:
                named = " and ".join(sorted(filter(None, packages)))
                note += f" The package {named} converts them to PNG."
            notes.append(note)
        if self.config.group is not None:
            notes.append(f"Images of one group ({self.config.group}) are on one side.")
        return notes

    def report(self, source: Source) -> Comparison:
        """Write what is known."""
        folder = self.cells.file.parent
        comparison = self._comparison(self.cells.look())
        if not comparison.rows:  # it was interrupted before the first result
            return comparison
        best = comparison.best() or comparison.rows[0]
        title = comparison.title(best)
        strength = comparison.strength(best)
        comparison.script = script_of(best, title, strength, self.config, source)
        comparison.timm = timm_lines(best, strength, self.config, source)
        write_text(folder / "train.py", comparison.script)
        write_text(folder / "table.md", comparison.text())
        if len(comparison.rows) > 1:
            write_bytes(folder / "gains.png", comparison.plot())
        if any(row.added for row in self.rows):
            self._prepare(0)
            part = read_part(self.images, "seed-0")
            picture = variants_picture(part, self.rows, self.config, self.pool.classes)
            write_bytes(folder / "variants.png", picture)
        return comparison
