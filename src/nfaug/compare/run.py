"""Run a comparison: seed by seed, as many as the time allows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.manifest import read_manifest
from nfaug.checkpoint.resolve import read_resolved
from nfaug.data.images import LabelledImages, progress_bar, to_tensors
from nfaug.data.open import wrap_dataset
from nfaug.fitting import fit, load_base
from nfaug.io.atomic import write_bytes, write_text
from nfaug.io.device import pick_device
from nfaug.io.lock import lock_output
from nfaug.io.tensors import read_tensors

from .classifier import Classifier
from .config import PIXELS, CompareConfig
from .images import check_apart, check_shape, labelled_images, split_images
from .report import Cells, Comparison
from .transforms import transform_of

__all__ = ["bank_of", "compare"]


def compare(
    data: Any,
    out: str | Path,
    *,
    config: CompareConfig | None = None,
    test_data: Any = None,
    progress: bool = True,
) -> Comparison:
    """Compare augmentations on a data set, by classifiers that are trained on few of its images.

    Every row adds something to the safe augmentations of `settings.augment`: nothing, NFA in
    pixels, NFA with a flow, RandAugment, TrivialAugment, or NFA before one of these. All rows of a
    seed share the labelled images, the initial weights and the order of the images. NFA's class
    statistics come from the labelled images alone.

    Cells are kept in `out`: after an interruption the same call goes on.

    Args:
        data: Images as `nfaug.wrap_dataset` takes them.
        out: The folder of the results: cells.csv, table.md and gains.png.
        config: What to compare, and how long.
        test_data: Images to judge by, none of which are trained on; by default a part of each
            class is held out.
        progress: Show a bar.

    Raises:
        ValueError: A class has too few images, an image to judge by is trained on, there is a flow
            and no `test_data`, or `out` holds a comparison of something else.
        FileExistsError: `out` holds other files than a comparison's.

    Example:
        >>> from tempfile import mkdtemp
        >>> from nfaug.compare import CompareConfig, compare
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, seeds=1, steps=5)
        >>> comparison = compare(digits, mkdtemp(), config=config, progress=False)
        >>> comparison.rows[0].title, len(comparison.rows)
        ('nothing more', 6)
    """
    config = config or CompareConfig()
    trained_flows = [name for name in config.checkpoint if name != PIXELS]
    if trained_flows and test_data is None:
        raise ValueError(
            f"the flow {trained_flows[0]} may have been trained on images that are held out to "
            "judge by: pass test_data (--test-data), images that it was not trained on"
        )
    images = wrap_dataset(data)
    test_images = None if test_data is None else wrap_dataset(test_data)
    check_shape(images, config)
    pool, judged = split_images(images, test_images, config.per_class)
    config = replace(config, steps=config.steps or _default_steps(config, images, pool))
    validation = to_tensors(judged, progress=False)
    if test_images is not None:
        check_apart(pool, judged, validation[0], config)
    # Errors of flows and weights come here, before `out` holds anything and before any training.
    record = _record(config, images, test_images)
    Classifier(config, record["shape"], len(images.classes), seed=0)
    folder = Path(out).expanduser()
    with lock_output(folder):
        cells = Cells(folder, record, len(judged))
        try:
            _fill(cells, config, pool, validation, progress)
        finally:  # also after Ctrl-C
            if cells.seeds(config.augmentations()):
                comparison = Comparison(config, cells)
                write_text(folder / "table.md", comparison.text())
                if len(comparison.seeds) > 1:
                    write_bytes(folder / "gains.png", comparison.plot())
    return comparison


def _default_steps(config: CompareConfig, data: LabelledImages, pool: LabelledImages) -> int:
    """Ten passes over the labelled images, at least 300 steps and at most 2,000."""
    count = len(pool)
    if config.per_class:
        count = config.per_class * len(data.classes)
    return min(2000, max(300, count // 5))


def _record(
    config: CompareConfig, data: LabelledImages, test_data: LabelledImages | None
) -> dict[str, Any]:
    """What the results depend on; a comparison goes on only while it is the same.

    Raises:
        ValueError: A flow takes other images than these, or a file of weights is damaged.
    """
    record = asdict(config)
    for name in ("minutes", "seeds", "device"):  # they may change when a comparison goes on
        del record[name]
    record["images"] = data.fingerprint()
    record["test"] = None if test_data is None else test_data.fingerprint()
    record["shape"] = [data.channels, *data.image_size]
    for name in config.checkpoint:
        flow = load_base(name, None).flow
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


def _fill(
    cells: Cells,
    config: CompareConfig,
    pool: LabelledImages,
    validation: tuple[Tensor, Tensor],
    progress: bool,
) -> None:
    """Train the classifiers that are missing, while the time left is enough for a seed."""
    rows = config.augmentations()
    deadline = monotonic() + 60 * config.minutes - cells.seconds
    for seed in range(config.seeds):
        missing = [row for row in rows if (row.name, seed) not in cells]
        if not missing:
            continue
        needed = cells.seconds / max(1, len(cells)) * len(missing)
        if cells.seeds(rows) and monotonic() + needed > deadline:
            continue
        few = labelled_images(pool, config, seed)
        labelled = to_tensors(few, progress=False)
        shape = (few.channels, *few.image_size)
        banks: dict[str, Tensor | None] = {"": None}
        with progress_bar(len(missing), f"seed {seed + 1}", "classifier", shown=progress) as bar:
            for row in missing:
                started = monotonic()
                if row.flow not in banks:
                    banks[row.flow] = bank_of(row.flow, few, config, seed)
                transform = transform_of(config.safe, row.policy, few.image_size)
                draw = partial(_draw, labelled, banks[row.flow], config.p, transform)
                classifier = Classifier(config, shape, len(few.classes), seed)
                with torch.random.fork_rng(devices=[]):  # torchvision draws from the global one
                    torch.default_generator.manual_seed(seed)
                    classifier.train(draw, len(few))
                right = classifier.right(*validation)
                cells.add(row.name, seed, right, monotonic() - started)
                seconds_left = max(0, deadline - monotonic())
                bar.set_postfix_str(f"{seconds_left:.0f} s left", refresh=False)
                bar.update()


def _draw(
    labelled: tuple[Tensor, Tensor],
    bank: Tensor | None,
    p: float,
    transform: Callable[[Tensor], Tensor],
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """An augmented batch with its labels: a variant with probability p, then the transform."""
    images, labels = labelled
    batch = images[rows]
    if bank is not None:
        variants = bank[rows, torch.randint(bank.shape[1], rows.shape)]
        replaced = torch.rand(len(rows)) < p
        batch = torch.where(replaced[:, None, None, None], variants, batch)
    return transform(batch), labels[rows]


def bank_of(
    flow: str,
    few: LabelledImages,
    config: CompareConfig,
    seed: int,
    autoencoder: str | None = None,
    **mixing: Any,
) -> Tensor:
    """Variants (N, V, C, H, W) of the labelled images under a flow that is fitted to them."""
    images, labels = to_tensors(few, progress=False)
    largest_class = int(torch.bincount(labels).max())
    rank = max(1, min(64, largest_class - 1))
    fitted = fit(flow, few, rank=rank, progress=False, seed=seed, autoencoder=autoencoder)
    device = pick_device(config.device)
    nfa = NFAugment(fitted.to(device), p=1.0, **mixing)
    seeds = range(1000 * seed, 1000 * seed + config.variants)
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    bank: list[Tensor] = []
    for batch, targets in zip(images.split(256), labels.split(256), strict=True):
        variants = nfa.variants(batch.to(device), targets.to(device), generators)
        bank.append(torch.stack([variant.cpu() for variant in variants], 1))
    return torch.cat(bank)
