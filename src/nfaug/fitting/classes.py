"""Fit axes, and statistics if asked for, to every class: what a fit and a training end with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from ..classes.pca_fit import ClassFit, ClasswisePCA, fit_class
from ..classes.pca_parts import PCAParts
from ..classes.statistics import ClassStatistics
from ..data.batches import Batches, progress_bar
from ..data.images import LabelledImages
from ..flows.flow import Flow
from ..io.atomic import write_bytes
from ..io.device import float64_device
from ..io.ranks import Ranks
from ..io.tensors import read_tensors, tensors_sha256
from ..io.version import __version__

__all__ = ["FittedClasses", "KeptClasses", "fit_classes"]

_MOMENTS = ("counts", "means", "m2")  # of a class's latents, beside the tensors of its PCA


class FittedClasses(NamedTuple):
    """What `fit_classes` returns.

    Attributes:
        statistics: Of latents with dequantisation noise; None if they were not asked for.
        pca: Axes, and memory, of latents as they are at run time.
    """

    statistics: ClassStatistics | None
    pca: ClasswisePCA


class KeptClasses(MutableMapping[int, ClassFit]):
    """The finished classes of a fit in a folder, so that a fit that was killed continues.

    A class is a file, whose name has a hash of all that the class follows from: the flow, the
    settings, and the paths, labels and contents of its images. A class of another flow or of other
    images is therefore not found, and is fitted again.

    Args:
        folder: The folder.
        flow: The flow.
        images: The images.
        settings: The settings of the fit.
    """

    def __init__(
        self, folder: Path, flow: Flow, images: LabelledImages, settings: dict[str, Any]
    ) -> None:
        self.folder: Path = folder
        self.images: LabelledImages = images
        autoencoder = flow.codec.record
        self.facts: dict[str, Any] = {
            "nfaug": __version__,
            "flow": flow.config.to_dict(),
            "weights": tensors_sha256(flow.state_dict()),
            "autoencoder": None if autoencoder is None else asdict(autoencoder),
            "device": flow.device.type,
            "preprocessing": images.preprocessing,
            "settings": settings,
        }
        self.files: dict[int, Path] = {}

    def find(self, label: int, rows: Tensor) -> bool:
        """Name the file of a class, whose images have these indices; return whether it exists."""
        facts = {
            **self.facts,
            "label": label,
            "of": int((self.images.targets == label).sum()),
            "images": self.images.subset(rows).fingerprint(len(rows)),
        }
        text = json.dumps(facts, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        self.files[label] = self.folder / f"{label:05}-{key}.safetensors"
        return self.files[label].is_file()

    def __setitem__(self, label: int, tensors: ClassFit) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.files[label], save(tensors))

    def __getitem__(self, label: int) -> ClassFit:
        return read_tensors(self.files[label])

    def __delitem__(self, label: int) -> None:
        del self.files[label]  # the file stays until the whole fit is saved

    def __iter__(self) -> Iterator[int]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@torch.no_grad()
def fit_classes(
    flow: Flow,
    data: Batches,
    classes: Sequence[str],
    *,
    rank: int,
    per_class: int,
    memory: bool,
    batch_size: int = 256,
    seed: int = 0,
    statistics: bool = False,
    ranks: Ranks | None = None,
    everywhere: bool = True,
    kept: KeptClasses | None = None,
    progress: bool = True,
) -> FittedClasses | None:
    """PCA of images encoded as at run time, and class statistics under dequantisation noise.

    Every class must have an image. The latents of one class at a time are in memory. Each process
    fits every k-th class, where k is their number. Random numbers depend on the class alone, so the
    result is bit for bit that of one process with as many threads.

    Args:
        flow: The flow.
        data: The images and their labels.
        classes: The names of the classes.
        rank: PCA axes per class.
        per_class: Encode at most this many images of each class.
        memory: Whether to keep the coefficients of every encoded image.
        batch_size: Images per encoding step.
        seed: Seed of the choice of images and of the dequantisation noise.
        statistics: Whether to find the statistics, which take a second encoding of every image.
        ranks: The processes that share the classes.
        everywhere: Whether every process gets the result, or only the main one.
        kept: Where finished classes are kept.
        progress: Whether to show a progress bar.

    Returns:
        PCA and statistics; None on a process that does not get them.
    """
    flow = flow.freeze()
    ranks = ranks or Ranks()
    num_classes = len(classes)
    own_classes = range(ranks.rank, num_classes, ranks.count)
    sizes = torch.bincount(data.labels, minlength=num_classes).clamp(max=per_class)
    own_images = int(sizes[list(own_classes)].sum())
    fits: MutableMapping[int, ClassFit] = {} if kept is None else kept
    orders: dict[int, Tensor] = {}
    generators: dict[int, torch.Generator] = {}
    finished = 0
    looks = progress and kept is not None
    with progress_bar(len(own_classes), "finished classes", "class", shown=looks) as bar:
        for label in own_classes:
            class_seed = (seed * num_classes + label) % 2**63
            generator = torch.Generator("cpu").manual_seed(class_seed)
            rows = (data.labels == label).nonzero().flatten()
            chosen = torch.randperm(len(rows), generator=generator)[:per_class]
            order = rows[chosen.sort().values]
            if kept is not None and kept.find(label, order):
                finished += len(order)
            else:
                orders[label] = order
                generators[label] = generator
            bar.update()
    with progress_bar(own_images, "fit", "image", shown=progress, initial=finished) as bar:
        passes = data.passes(list(orders.values()), batch_size)
        for label, batches in zip(orders, passes, strict=True):
            generator = generators[label]
            fits[label] = _fit(
                flow, batches, label, generator, bar, rank=rank, statistics=statistics
            )
    items = _collected(fits, num_classes, ranks, everywhere)
    if not everywhere and not ranks.main:
        for _ in items:  # none: it takes part in the collectives
            pass
        return None
    most_axes = min(rank, int(sizes.max()) - 1, flow.config.dim)
    rows_of_memory = int(sizes.sum()) if memory else 0
    parts = PCAParts(num_classes, most_axes, flow.config.dim, rows_of_memory)
    found = ClassStatistics(num_classes, flow.config.dim) if statistics else None
    for label, fit in enumerate(items):
        parts.add(fit)
        if found is not None:
            for name in _MOMENTS:
                getattr(found, name)[label] = fit[f"latents.{name}"][0]
    return FittedClasses(found, parts.joined())


def _fit(
    flow: Flow,
    batches: Iterator[tuple[Tensor, Tensor]],
    label: int,
    generator: torch.Generator,
    bar: Any,
    *,
    rank: int,
    statistics: bool,
) -> ClassFit:
    """The PCA of a class and, with `statistics`, the moments of its latents with noise."""
    moments = None
    if statistics:
        moments = ClassStatistics(1, flow.config.dim, float64_device(flow.device))
    latents = _encoded(flow, batches, generator, moments, bar)
    fit = fit_class(latents, rank, label=label, generator=generator)
    if moments is not None:
        for name in _MOMENTS:
            fit[f"latents.{name}"] = getattr(moments, name).cpu()
    return fit


def _encoded(
    flow: Flow,
    batches: Iterator[tuple[Tensor, Tensor]],
    generator: torch.Generator,
    moments: ClassStatistics | None,
    bar: Any,
) -> Tensor:
    """The latents (N, d) of the images of a class; those with noise are added to `moments`.

    The progress bar counts the images.
    """
    noise_generator = torch.Generator(flow.device).manual_seed(generator.initial_seed())
    latents: list[Tensor] = []
    for images, labels in batches:
        batch = flow.codec.prepare(images.to(flow.device))
        if moments is not None:
            shape = (len(batch), *flow.config.shape)
            noise = torch.rand(shape, generator=noise_generator, device=flow.device)
            z, _ = flow.encode(batch, noise)
            try:
                moments.update(z, torch.zeros_like(labels))
            except ValueError as error:
                raise ValueError(f"class {int(labels[0])}: {error}") from error
        latents.append(flow.latents(batch).flatten(1))
        bar.update(len(batch))
    return torch.cat(latents)


def _collected(
    fits: MutableMapping[int, ClassFit], num_classes: int, ranks: Ranks, everywhere: bool
) -> Iterator[ClassFit]:
    """Yield the fits of all classes in the order of labels.

    Where only the main process needs them, it reads the files of all processes if it can.
    """
    if isinstance(fits, KeptClasses) and not everywhere:
        files: dict[int, Path] = {}
        for part in ranks.everyone(fits.files):
            files.update(part)
        sees_all = ranks.everyone(all(file.is_file() for file in files.values()))
        if sees_all[0]:  # of the main process
            if ranks.main:
                for label in range(num_classes):
                    yield read_tensors(files[label])
            return
    yield from ranks.collect(fits, num_classes, everywhere=everywhere)
