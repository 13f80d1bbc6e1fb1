"""Run a comparison: methods times seeds, seed by seed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfaug.checkpoint.manifest import read_manifest
from nfaug.checkpoint.resolve import resolve
from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.fitting.checkpoints import load_base
from nfaug.io.atomic import write_bytes, write_text
from nfaug.io.extras import require
from nfaug.io.lock import lock_output
from nfaug.io.progress import progress_bar
from nfaug.io.tensors import file_sha256, read_tensors
from nfaug.io.text import printable
from nfaug.io.version import __version__
from nfaug.run.device import pick_device

from .cells import Cells, check_format
from .classifier import Classifier, default_steps
from .config import CompareConfig
from .figures import LEAST_IMAGES, LEAST_SEEDS, Cell
from .frozen import input_size
from .images import CompareImages, decode_images, split_images
from .methods import PIXELS, Method
from .report import Comparison, titles_of
from .work import Work
from .workers import RunJobs, workers

_FORMAT = 2  # of settings.json
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

    Every method adds something to the safe augmentations of `config.augment`: nothing, RandAugment
    (arXiv:1909.13719), MixUp (arXiv:1710.09412), NFA in pixels, NFA with another checkpoint, or NFA
    before RandAugment. With pretrained weights the first method classifies features of the frozen
    network, and the others fine-tune it. All methods of a seed share the labelled images, the
    initial weights and the order of the images. NFA's class statistics come from the labelled
    images alone.

    What is trained depends on the data and the settings alone, and on no clock. After every whole
    seed the folder has a table, and after `config.seeds` of them advice. An interrupted comparison
    goes on with the same call. With more seeds a finished one goes on, too: that is another look at
    its results, which asks for more (`nfaug.compare.figures.is_significant`).

    Args:
        data: Images as `nfaug.open_dataset` takes them.
        out: The folder of the results: table.md, gains.png and cells.csv.
        config: What to compare, and how often.
        test_data: Test images; by default a part of each class is held out. Images with the
            pixels of one of them are not trained on.
        processes: How many classifiers are trained at once, each with one thread. With one, they
            are trained in this process, with torch's threads.
        progress: Print each result, and a bar, on standard error.

    Returns:
        The methods, with their accuracy in per cent and their gains in points, a table and advice.

    Raises:
        ValueError: A class has too few images, there is a checkpoint and no `test_data`, or `out`
            holds a comparison of something else or of more seeds.
        FileExistsError: `out` holds other files.

    Example:
        >>> from tempfile import mkdtemp
        >>> from nfaug.compare import CompareConfig, compare
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, methods="none,mixup,nfa", seeds=3, steps=5)
        >>> comparison = compare(digits, mkdtemp(), config=config, progress=False)
        >>> comparison.title(comparison.methods[0]), len(comparison.methods)
        ('nothing more', 3)
    """
    config = config or CompareConfig()
    require("torchvision", "scipy", "matplotlib")
    if config.network != CompareConfig.network:
        require("timm", "sklearn")
    folder = Path(out).expanduser()
    check_format(folder, _FORMAT)
    flows = [flow for flow in config.checkpoint if flow != PIXELS]
    if flows and test_data is None:
        raise ValueError(
            f"the flow {flows[0]} may have been trained on images that are held out as a test set: "
            "pass test_data (--test-data), images that it was not trained on"
        )
    pool, test = split_images(data, test_data, config)
    _check_shape(pool, config)
    for name in flows:
        _check_flow(name, pool, open_dataset(test_data))
    shape = (pool.channels, *pool.image_size)
    Classifier(config, shape, len(pool.classes), seed=0)  # its errors come first
    side = None
    if any(method.frozen for method in config.table()):
        _, side = input_size(config)
    images = decode_images(pool, test, config, frozen_side=side, progress=progress)
    labelled = len(images.labelled(config.per_class, 0).labels)
    config = replace(config, steps=config.steps or default_steps(config, labelled))
    facts = _facts(config, images)
    _warn_of_no_advice(config, images)
    with lock_output(folder):
        cells = Cells(folder, facts, len(images.names))
        later = cells.look(config.seeds)
        return _Run(config, images, cells, later, processes, progress).finish()


def _check_shape(data: Images, config: CompareConfig) -> None:
    """Raise ValueError if an augmentation cannot be applied to images of this shape."""
    height, width = data.image_size
    if data.channels not in (1, 3):
        raise ValueError(
            f"a comparison takes gray or RGB images, as its rivals do; got {data.channels} channels"
        )
    if "rotate" in config.safe and height != width:
        raise ValueError(
            f"90-degree rotations (augment rotate) need square images; got {height} x {width}: "
            "choose a square (--image-size), or leave rotate out"
        )


def _check_flow(name: str, data: Images, test: Images) -> None:
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


def _warn_of_no_advice(config: CompareConfig, images: CompareImages) -> None:
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


def _facts(config: CompareConfig, images: CompareImages) -> dict[str, Any]:
    """What the cells depend on; a comparison goes on only while it is the same."""
    facts = asdict(config)
    del facts["seeds"]  # a comparison goes on with more
    facts["format"] = _FORMAT
    facts["versions"] = {"nfaug": __version__, "torch": torch.__version__}
    facts["device"] = pick_device(config.device).type  # figures of a GPU are not those of a CPU
    facts["methods"] = [method.name for method in config.table()]
    facts["lr"] = config.learning_rate
    facts["shape"] = list(images.shape)
    facts["images"] = images.sha256()
    for name in config.checkpoint:
        facts[f"files of {name}"] = read_manifest(resolve(name, whole=False))["files"]
    facts["weights"] = None
    if config.weights is not None:
        file = Path(config.weights)
        read_tensors(file)  # for a damaged file timm raises no ValueError
        facts["weights"] = file_sha256(file)  # in place of the path
    return facts


class _Run:
    """A comparison that runs."""

    def __init__(
        self,
        config: CompareConfig,
        images: CompareImages,
        cells: Cells,
        later: int,
        processes: int,
        progress: bool,
    ) -> None:
        self.config = config
        self.images = images
        self.cells = cells
        self.later = later
        self.processes = processes
        self.progress = progress
        self.folder = cells.file.parent
        self.methods = config.table()
        self.titles = titles_of(config, images.shape)

    def finish(self) -> Comparison:
        """Compute the cells that are missing, and write the report.

        Raises:
            KeyboardInterrupt: With what is kept, and how to go on.
        """
        planned = len(self.methods) * self.config.seeds
        missing = self._missing()
        self.bar = progress_bar(
            planned,
            f"{self.config.seeds} seeds",
            "training",
            shown=self.progress,
            initial=planned - sum(len(methods) for methods, _ in missing),
        )
        try:
            with self.bar:  # closed also if nothing is missing, so that no thread draws it again
                if missing:
                    self._fill(missing)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted: {len(self.cells)} classifiers are kept in {self.folder}, and the "
                "same command goes on"
            ) from None
        return self._report()

    def _fill(self, missing: list[tuple[tuple[Method, ...], int]]) -> None:
        folder = self.folder / ".images"
        with workers(self.images, self.config, self.processes, folder) as run_jobs:
            names = ", ".join(self.titles.values())
            self._say(f"{len(self.images.names)} test images. Methods: {names}")
            features = self._test_features(run_jobs, missing)
            jobs: dict[tuple[tuple[Method, ...], int], tuple[Any, ...]] = {}
            for methods, seed in missing:
                if methods[0].frozen:
                    jobs[methods, seed] = Work.frozen, seed, features
                else:
                    jobs[methods, seed] = Work.trained, methods, seed
            for (methods, seed), cells in run_jobs(jobs):
                self._keep(methods, seed, cells)

    def _missing(self) -> list[tuple[tuple[Method, ...], int]]:
        """The methods that lack a cell, seed by seed, in jobs.

        Of several processes, one computes all methods of a flow, which have one fit. They come
        first in a seed, since they take longest.
        """
        found = []
        for seed in range(self.config.seeds):
            jobs: dict[object, list[Method]] = {}
            for method in self.methods:
                if (method.name, seed) not in self.cells:
                    together = method.flow if self.processes > 1 and method.flow else method
                    jobs.setdefault(together, []).append(method)
            longest_first = list(jobs.values())
            if self.processes > 1:
                longest_first.sort(key=lambda job: not job[0].flow)
            found += [(tuple(job), seed) for job in longest_first]
        return found

    def _test_features(
        self, run_jobs: RunJobs, missing: Iterable[tuple[tuple[Method, ...], int]]
    ) -> NDArray[np.float32] | None:
        """Features of the test images, if a frozen network is to be compared."""
        if not any(methods[0].frozen for methods, _ in missing):
            return None
        count = len(self.images.names)
        starts = range(0, count, _CHUNK)
        jobs = {start: (Work.test_features, start, min(start + _CHUNK, count)) for start in starts}
        parts = dict(run_jobs(jobs))
        return np.concatenate([parts[start] for start in starts])

    def _keep(self, methods: Sequence[Method], seed: int, cells: list[Cell]) -> None:
        before = self._whole_seeds()
        names = [(method.name, seed) for method in methods]
        self.cells.add_all(dict(zip(names, cells, strict=True)))
        for method, cell in zip(methods, cells, strict=True):
            title = self.titles[method]
            self._say(f"{title}, seed {seed}: {cell.accuracy:.1f}% ({cell.seconds:.0f} s)")
        self.bar.update(len(methods))
        if before < self._whole_seeds() < self.config.seeds:
            comparison = self._comparison()
            write_text(self.folder / "table.md", comparison.text())
            if before == 0 and comparison.is_too_short():
                self._say(comparison.advice())

    def _whole_seeds(self) -> int:
        return self.cells.whole_seeds([method.name for method in self.methods])

    def _comparison(self) -> Comparison:
        return Comparison(self.config, self.images, self.cells, self.later)

    def _say(self, line: str) -> None:
        if self.progress:
            self.bar.write(printable(line), file=sys.stderr)

    def _report(self) -> Comparison:
        """Write the report; the comparison is then finished."""
        comparison = self._comparison()
        write_text(self.folder / "table.md", comparison.text())
        if len(comparison.methods) > 1:
            write_bytes(self.folder / "gains.png", comparison.plot())
        return comparison
