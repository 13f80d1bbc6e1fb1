"""Fit axes, and statistics if asked for, to every class: what a fit and a training end with."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..classes.pca_fit import fit_class
from ..classes.pca_parts import ClassFit, PCAParts
from ..classes.statistics import ClassStatistics
from ..data.batches import LabelledBatches, batches
from ..data.choose import choose_of_class
from ..data.images import Batch
from ..flows.flow import Flow
from ..io.progress import progress_bar
from ..run.device import float64_device
from ..run.ranks import Ranks
from .config import FitConfig
from .run import FinishedClasses


class FittedClasses(NamedTuple):
    """What `fit_classes` returns.

    Attributes:
        statistics: Of latents with dequantisation noise; None if they were not asked for.
        pca: Axes, and memory, of latents as they are at run time.
    """

    statistics: ClassStatistics | None
    pca: ClasswisePCA


class _Chosen(NamedTuple):
    """A class, the indices of its images that are encoded, and its source of random numbers."""

    label: int
    rows: Tensor
    generator: torch.Generator


@torch.no_grad()
def fit_classes(
    flow: Flow,
    data: LabelledBatches,
    classes: Sequence[str],
    config: FitConfig,
    *,
    ranks: Ranks | None = None,
    everywhere: bool = True,
    finished: FinishedClasses | None = None,
    progress: bool = True,
) -> FittedClasses | None:
    """PCA of images encoded as at run time, and class statistics under dequantisation noise.

    Every class must have an image. The latents of one class at a time are in memory. Each process
    fits every k-th class, where k is their number. Random numbers depend on the class alone, so the
    result is bit for bit on CPUs that of one process with as many threads. Statistics take a second
    encoding of every image, and are found if `config` asks for Gaussians.

    Args:
        flow: The flow.
        data: The images and their labels.
        classes: The names of the classes.
        config: The settings.
        ranks: The processes that share the classes.
        everywhere: Whether every process gets the result, or only the main one.
        finished: Where finished classes are kept.
        progress: Whether to show a progress bar.

    Returns:
        PCA and statistics; None on a process that does not get them.
    """
    flow = flow.freeze()
    ranks = ranks or Ranks()
    num_classes = len(classes)
    own = [
        _choose(data.targets, label, num_classes, config)
        for label in range(ranks.rank, num_classes, ranks.count)
    ]
    if finished is None:
        fits: dict[int, ClassFit] = {}
        _fit_each(flow, data, own, own, config, fits.__setitem__, progress)
        items = ranks.collect(fits.pop, num_classes, everywhere=everywhere)
    else:
        files = _files(finished, own, progress)
        missing = [chosen for chosen in own if not files[chosen.label].is_file()]

        def save(label: int, fit: ClassFit) -> None:
            finished.save(files[label], fit)

        _fit_each(flow, data, own, missing, config, save, progress)
        items = _read(finished, files, num_classes, ranks, everywhere)
    if not everywhere and not ranks.main:
        for _ in items:  # none: it takes part in the collectives
            pass
        return None
    sizes = torch.bincount(data.targets, minlength=num_classes).clamp(max=config.per_class)
    return _joined(items, sizes, flow.config.dim, config)


def _choose(labels: Tensor, label: int, num_classes: int, config: FitConfig) -> _Chosen:
    """Choose at most `config.per_class` images of a class."""
    class_seed = (config.seed * num_classes + label) % 2**63
    generator = torch.Generator("cpu").manual_seed(class_seed)
    rows = choose_of_class(labels, label, config.per_class, generator)
    return _Chosen(label, rows.sort().values, generator)


def _files(finished: FinishedClasses, own: Sequence[_Chosen], progress: bool) -> dict[int, Path]:
    """The file of each class, which depends on its images."""
    files: dict[int, Path] = {}
    with progress_bar(len(own), "finished classes", "class", shown=progress) as bar:
        for chosen in own:
            files[chosen.label] = finished.file(chosen.label, chosen.rows)
            bar.update()
    return files


def _fit_each(
    flow: Flow,
    data: LabelledBatches,
    own: Sequence[_Chosen],
    missing: Sequence[_Chosen],
    config: FitConfig,
    keep: Callable[[int, ClassFit], None],
    progress: bool,
) -> None:
    """Fit the missing classes among this process's own, and pass on each label and its fit."""
    own_images = sum(len(chosen.rows) for chosen in own)
    missing_images = sum(len(chosen.rows) for chosen in missing)
    with progress_bar(
        own_images, "fit", "image", shown=progress, initial=own_images - missing_images
    ) as bar:
        parts = [chosen.rows.split(config.batch_size) for chosen in missing]
        # One stream for all classes, so that the next class is decoded while one is fitted.
        every_part = itertools.chain.from_iterable(parts)
        # Closed at once after Ctrl-C, whose traceback would keep it.
        with contextlib.closing(batches(data, every_part)) as stream:
            for chosen, own_parts in zip(missing, parts, strict=True):
                own_batches = itertools.islice(stream, len(own_parts))
                keep(chosen.label, _fit(flow, own_batches, chosen, config, bar))


def _fit(
    flow: Flow,
    own_batches: Iterator[Batch],
    chosen: _Chosen,
    config: FitConfig,
    bar: Any,
) -> ClassFit:
    """The PCA of a class and, for Gaussians, the moments of its latents with noise.

    The progress bar counts the images.
    """
    moments = None
    if config.prior is not None:
        moments = ClassStatistics(1, flow.config.dim, float64_device(flow.device))
    seed = chosen.generator.initial_seed()
    noise_generator = torch.Generator(flow.device).manual_seed(seed)
    latents: list[Tensor] = []
    for images, labels in own_batches:
        batch = flow.codec.prepare(images.to(flow.device))
        if moments is not None:
            shape = (len(batch), *flow.config.shape)
            noise = torch.rand(shape, generator=noise_generator, device=flow.device)
            z = flow.latents(batch, noise)
            try:
                moments.update(z, torch.zeros_like(labels))
            except ValueError as error:
                raise ValueError(f"class {chosen.label}: {error}") from error
        latents.append(flow.latents(batch).flatten(1))
        bar.update(len(batch))
    z = latents[0] if len(latents) == 1 else torch.cat(latents)  # which would copy them
    fit = fit_class(z, config.rank, label=chosen.label, generator=chosen.generator)
    if moments is None:
        return fit
    return replace(fit, noisy_mean=moments.means[0].cpu(), noisy_m2=moments.m2[0].cpu())


def _joined(items: Iterator[ClassFit], sizes: Tensor, dim: int, config: FitConfig) -> FittedClasses:
    """Put the fits of all classes together; `sizes` are their numbers of encoded images."""
    most_axes = min(config.rank, int(sizes.max()) - 1, dim)
    rows_of_memory = int(sizes.sum()) if config.memory else 0
    parts = PCAParts(len(sizes), most_axes, dim, rows_of_memory)
    statistics = None
    if config.prior is not None:
        statistics = ClassStatistics(len(sizes), dim)
    for label, fit in enumerate(items):
        parts.add(fit)
        if statistics is not None:
            assert fit.noisy_mean is not None
            assert fit.noisy_m2 is not None
            statistics.counts[label] = fit.count
            statistics.means[label] = fit.noisy_mean
            statistics.m2[label] = fit.noisy_m2
    return FittedClasses(statistics, parts.joined())


def _read(
    finished: FinishedClasses,
    own: dict[int, Path],
    num_classes: int,
    ranks: Ranks,
    everywhere: bool,
) -> Iterator[ClassFit]:
    """Yield the fits of all classes from their files, in the order of labels.

    Where only the main process needs them, it reads the files of all processes if it can.
    """
    if not everywhere:
        files: dict[int, Path] = {}
        for part in ranks.everyone(own):
            files.update(part)
        sees_all = ranks.everyone(all(file.is_file() for file in files.values()))
        if sees_all[0]:  # of the main process
            if ranks.main:
                for label in range(num_classes):
                    yield finished.load(files[label])
            return
    yield from ranks.collect(
        lambda label: finished.load(own[label]), num_classes, everywhere=everywhere
    )
