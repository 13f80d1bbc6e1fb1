"""Run a comparison: rows times seeds, seed by seed."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfaug.checkpoint.manifest import read_manifest
from nfaug.checkpoint.resolve import resolve
from nfaug.data.images import LabelledImages
from nfaug.data.torch_datasets import wrap_dataset
from nfaug.fitting.opening import load_base
from nfaug.io.atomic import write_bytes, write_text
from nfaug.io.errors import reading
from nfaug.io.extras import require
from nfaug.io.lock import lock_output
from nfaug.io.progress import progress_bar
from nfaug.io.strict_json import read_json
from nfaug.io.tensors import file_sha256, read_tensors
from nfaug.io.text import printable
from nfaug.io.version import __version__
from nfaug.run.device import pick_device

from .cells import Cells
from .classifier import Classifier, default_steps
from .config import CompareConfig
from .figures import LEAST_IMAGES, LEAST_SEEDS, Cell
from .frozen import input_size
from .images import Images, decode_images, split_images
from .pictures import variants_picture
from .plan import Plan, plan_of
from .report import Comparison
from .rows import PIXELS, Row, titles_of
from .size import check_time
from .work import Work
from .workers import RunJobs, workers

_CHUNK = 64  # test images whose features are a job


def compare(
    data: Any,
    out: str | Path,
    *,
    config: CompareConfig | None = None,
    test_data: Any = None,
    processes: int = 1,
    progress: bool = True,
) -> Comparison:
    """Compare augmentations on a dataset, by classifiers that are trained on few of its images.

    Every row adds something to the safe augmentations of `config.augment`: nothing, RandAugment
    (arXiv:1909.13719), MixUp (arXiv:1710.09412), NFA in pixels, NFA with another checkpoint, or NFA
    before RandAugment. With pretrained weights the first row is logistic regression on the features
    of the frozen network, and the other rows fine-tune it. All rows of a seed share the
    labelled images, the initial weights and the order of the images. NFA's class statistics come
    from the labelled images alone.

    After the first whole seed it is decided how many fit into the time, and which rows are left out
    if it is short. There is one look at the results, at the end. An interrupted comparison goes on
    with the same call.

    Args:
        data: Images as `nfaug.wrap_dataset` takes them.
        out: The folder of the results: table.md, gains.png, variants.png and cells.csv.
        config: What to compare, and how long.
        test_data: Test images; by default a part of each class is held out. Images with the
            pixels of one of them are not trained on.
        processes: How many classifiers are trained at once, each with one thread. With one, they
            are trained in this process, with torch's threads.
        progress: Print each result, and a bar, on standard error.

    Returns:
        The rows, with their accuracy in per cent and their gains in points, a table and advice.

    Raises:
        ValueError: A class has too few images, there is a checkpoint and no `test_data`, or `out`
            holds a comparison of something else.
        FileExistsError: `out` holds a finished comparison, or other files.
        TimeoutError: Three seeds do not fit into the time. If that is clear from three steps,
            nothing is trained. Otherwise the first seed is kept, and the same call with more
            minutes goes on.

    Example:
        >>> from tempfile import mkdtemp
        >>> from nfaug.compare import CompareConfig, compare
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, rows="none,mixup,nfa", seeds=3, steps=5)
        >>> comparison = compare(digits, mkdtemp(), config=config, progress=False)
        >>> comparison.title(comparison.rows[0]), len(comparison.rows)
        ('nothing more', 3)
    """
    started = monotonic()
    config = config or CompareConfig()
    require("torchvision", "scipy", "matplotlib")
    if config.network != CompareConfig.network:
        require("timm", "sklearn")
    folder = Path(out).expanduser()
    _check_unfinished(folder)
    flows = [flow for flow in config.checkpoint if flow != PIXELS]
    if flows and test_data is None:
        raise ValueError(
            f"the flow {flows[0]} may have been trained on images that are held out as a test set: "
            "pass test_data (--test-data), images that it was not trained on"
        )
    pool, test = split_images(data, test_data, config)
    _check_shape(pool, config)
    for name in flows:
        _check_flow(name, pool, wrap_dataset(test_data))
    shape = (pool.channels, *pool.image_size)
    Classifier(config, shape, len(pool.classes), seed=0)  # its errors come first
    rows = _rows(config, pool)
    side = input_size(config)[1] if any(row.frozen for row in rows) else None
    images = decode_images(pool, test, config, frozen_side=side, progress=progress)
    labelled = len(images.labelled(config.per_class, 0).labels)
    config = replace(config, steps=config.steps or default_steps(config, labelled))
    record = _record(config, images)
    _warn_of_no_advice(config, images)
    with lock_output(folder):
        _check_unfinished(folder)
        if not (folder / "cells.csv").exists():
            check_time(config, rows, images.shape, len(pool.classes), processes)
        cells = Cells(folder, record, len(images.names))
        run = _Run(config, images, rows, cells, processes, started, progress)
        return run.finish(run.fill())


def _rows(config: CompareConfig, data: LabelledImages) -> list[Row]:
    """The rows of the table. Frozen features at the size of fine-tuning stand beside it."""
    rows = config.table()
    trained = [row for row in rows if not row.frozen]
    if len(trained) < len(rows):
        side, _ = input_size(config)
        if trained and data.image_size != (side, side):
            rows.insert(1, Row(frozen="small"))
    return rows


def _check_unfinished(folder: Path) -> None:
    if (folder / "table.md").exists() and (folder / "settings.json").exists():
        raise FileExistsError(
            f"{folder} holds a finished comparison, whose results are in {folder / 'table.md'}. "
            "Another one needs another folder: --out"
        )


def _check_shape(data: LabelledImages, config: CompareConfig) -> None:
    """Raise ValueError if an augmentation cannot be applied to images of this shape."""
    height, width = data.image_size
    if data.channels not in (1, 3):
        raise ValueError(
            f"a comparison takes grey or RGB images, as its rivals do; got {data.channels} channels"
        )
    if "rotate" in config.safe and height != width:
        raise ValueError(
            f"90-degree rotations (augment rotate) need square images; got {height} x {width}: "
            "choose a square (--image-size), or leave rotate out"
        )


def _check_flow(name: str, data: LabelledImages, test: LabelledImages) -> None:
    """Raise ValueError if a flow takes other images, or was trained on the test images."""
    base = load_base(name)
    if not base.flow.shape_free and base.flow.codec.channels != data.channels:
        raise ValueError(
            f"{name} takes images of {base.flow.codec.channels} channels; the data have "
            f"{data.channels}"
        )
    if base.config.training.get("images_sha256", "") == test.fingerprint():
        raise ValueError(
            f"{name} was trained on the test images, and NFA would look too good: "
            "pass others as test_data (--test-data)"
        )


def _warn_of_no_advice(config: CompareConfig, images: Images) -> None:
    """Say before training that there will be no advice."""
    if len(images.names) < LEAST_IMAGES:
        warnings.warn(
            f"{len(images.names)} test images, and advice needs {LEAST_IMAGES}: there will be a "
            "table without advice. More images, or some of your own (test_data, --test-data), help",
            stacklevel=3,
        )
    if config.seeds < LEAST_SEEDS:
        warnings.warn(
            f"seeds is {config.seeds}, and advice needs {LEAST_SEEDS}: there will be a table "
            "without advice",
            stacklevel=3,
        )


def _record(config: CompareConfig, images: Images) -> dict[str, Any]:
    """What the results depend on; a comparison goes on only while it is the same."""
    record = asdict(config)
    del record["minutes"]
    record["versions"] = {"nfaug": __version__, "torch": torch.__version__}
    record["device"] = pick_device(config.device).type  # figures of a GPU are not those of a CPU
    record["rows"] = [row.name for row in config.table()]
    record["lr"] = config.learning_rate
    record["shape"] = list(images.shape)
    record["images"] = images.sha256()
    for name in config.checkpoint:
        record[f"files of {name}"] = read_manifest(resolve(name, whole=False))["files"]
    record["weights"] = None
    if config.weights is not None:
        file = Path(config.weights)
        read_tensors(file)  # for a damaged file timm raises no ValueError
        record["weights"] = file_sha256(file)  # in place of the path
    return record


class _Run:
    """A comparison that runs."""

    def __init__(
        self,
        config: CompareConfig,
        images: Images,
        rows: list[Row],
        cells: Cells,
        processes: int,
        started: float,
        progress: bool,
    ) -> None:
        self.config = config
        self.images = images
        self.rows = rows
        self.cells = cells
        self.processes = processes
        self.started = started
        self.progress = progress
        self.folder = cells.file.parent
        self.features: dict[str, NDArray[np.float32]] = {}  # of the test images
        self.titles = titles_of(rows, images.shape, pretrained=config.pretrained)

    def fill(self) -> Plan:
        """Compute the cells that are missing, and return the plan.

        Raises:
            KeyboardInterrupt: With what is kept, and how to go on.
        """
        try:
            self._picture()
            kept = [name for name, _ in self.cells if not name.startswith("frozen")]
            self.kept_steps = len(kept) * (self.config.steps or 0)
            self.bar = progress_bar(
                self._steps(self.rows, [0]),
                "the first seed",
                "step",
                shown=self.progress,
                initial=self.kept_steps,
            )
            with self.bar, workers(
                self.images, self.config, self.processes, self.folder / ".images", self._report
            ) as run_jobs:  # fmt: skip
                names = ", ".join(self.titles.values())
                self._say(f"{len(self.images.names)} test images. Rows: {names}")
                self._test_features(run_jobs)
                self._compute(run_jobs, self.rows, [0])
                plan = self._plan()
                rows = [row for row in self.rows if row.name in plan.rows]
                self.bar.total += self._steps(rows, range(1, plan.seeds))
                self.bar.set_description(f"{plan.seeds} seeds")
                self._compute(run_jobs, rows, range(1, plan.seeds))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted: {len(self.cells)} classifiers are kept in {self.folder}, and the "
                "same command goes on"
            ) from None
        return plan

    def _picture(self) -> None:
        """Draw what is compared, before anything is trained."""
        file = self.folder / "variants.png"
        if not file.exists() and any(not row.frozen for row in self.rows):
            write_bytes(file, variants_picture(self.images, self.rows, self.config))

    def _steps(self, rows: list[Row], seeds: range | list[int]) -> int:
        trained = [row for row in rows if not row.frozen]
        return (self.config.steps or 0) * len(trained) * len(seeds)

    def _report(self, steps: int) -> None:
        """Show the steps of this call, and those of cells that were kept."""
        self.bar.update(self.kept_steps + steps - self.bar.n)

    def _say(self, line: str) -> None:
        if self.progress:
            self.bar.write(printable(line), file=sys.stderr)

    def _test_features(self, run_jobs: RunJobs) -> None:
        """Features of the test images, at each size."""
        count = len(self.images.names)
        for kind in {row.frozen for row in self.rows if row.frozen}:
            starts = range(0, count, _CHUNK)
            jobs = {
                start: (Work.test_features, kind, start, min(start + _CHUNK, count))
                for start in starts
            }
            parts = dict(run_jobs(jobs))
            self.features[kind] = np.concatenate([parts[start] for start in starts])

    def _jobs(self, rows: list[Row], seed: int) -> list[list[Row]]:
        """The missing rows of a seed, one by one, or as several processes compute them.

        Of several, one computes all rows of a flow, which have one fit. They begin with these,
        which take longest.
        """
        missing = [row for row in rows if (row.name, seed) not in self.cells]
        if self.processes == 1:
            return [[row] for row in missing]
        jobs: dict[object, list[Row]] = {}
        for row in missing:
            jobs.setdefault(row.flow or row, []).append(row)
        return sorted(jobs.values(), key=lambda job: not job[0].flow)

    def _compute(self, run_jobs: RunJobs, rows: list[Row], seeds: Iterable[int]) -> None:
        jobs: dict[tuple[tuple[Row, ...], int], tuple[Any, ...]] = {}
        for seed in seeds:
            for job in self._jobs(rows, seed):
                kind = job[0].frozen
                if kind:
                    jobs[tuple(job), seed] = Work.frozen, kind, seed, self.features[kind]
                else:
                    jobs[tuple(job), seed] = Work.trained, job, seed
        for (job_rows, seed), cells in run_jobs(jobs):
            self._keep(job_rows, seed, cells)

    def _keep(self, rows: Sequence[Row], seed: int, cells: list[Cell]) -> None:
        names = [(row.name, seed) for row in rows]
        self.cells.add_all(dict(zip(names, cells, strict=True)))
        for row, cell in zip(rows, cells, strict=True):
            title = self.titles[row]
            self._say(f"{title}, seed {seed}: {cell.accuracy:.1f}% ({cell.seconds:.0f} s)")

    def _plan(self) -> Plan:
        """The plan, made after the first whole seed, or before an interruption."""
        file = self.folder / "plan.json"
        if file.exists():
            with reading(file):
                plan = Plan(**read_json(file))
            if plan.minutes != self.config.minutes:
                raise ValueError(
                    f"{self.folder} holds a comparison of {plan.minutes:g} minutes, and minutes "
                    f"is {self.config.minutes:g}: the same command goes on; another one needs "
                    "another --out"
                )
            return plan
        seconds = {row: max(0.01, self.cells[row.name, 0].seconds) for row in self.rows}
        a_seed = sum(seconds.values()) / self.processes
        plan = plan_of(
            seconds,
            spent=max(monotonic() - self.started, a_seed),  # more, if it was interrupted before
            minutes=self.config.minutes,
            most=self.config.seeds,
            processes=self.processes,
        )
        write_text(file, json.dumps(plan._asdict()))
        line = f"{plan.seeds} seeds of {len(plan.rows)} rows"
        if plan.left_out:
            names = [self.titles[row] for row in self.rows if row.name in plan.left_out]
            line += (
                f" fit into {plan.minutes:g} minutes; left out: {', '.join(names)}. With --minutes "
                f"{plan.needed} and another --out all rows fit"
            )
        elif plan.seeds < self.config.seeds:
            line += f" fit into {plan.minutes:g} minutes"
        self._say(f"{line}.")
        return plan

    def finish(self, plan: Plan) -> Comparison:
        """Write the report; the comparison is then finished."""
        comparison = Comparison(self.config, self.images, self.rows, self.cells, plan)
        if len(comparison.rows) > 1:
            write_bytes(self.folder / "gains.png", comparison.plot())
        write_text(self.folder / "table.md", comparison.text())
        return comparison
