"""Fit an existing flow to the classes of a data set, in one pass over the images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from .classes.fixed_point.config import FixedPointConfig
from .classes.gaussians import ClassGaussians
from .classes.pca_fit import ClasswisePCA, StoredFit, assemble, fit_stored
from .classes.priors import GradientDescentConfig, choose_prior
from .classes.statistics import ClassStatistics
from .data.batches import Batches, MemoryBatches, progress_bar
from .data.checks import check_class_sizes
from .data.images import LabelledImages, TensorImages, run_over
from .data.open import open_dataset, wrap_dataset
from .flows.flow import Flow
from .flows.latent_codec import measure_codec
from .io.manifest import read_manifest
from .io.ranks import Ranks, joined
from .io.resolve import public_name, read_resolved

__all__ = [
    "check_images",
    "encode_with_noise",
    "fit",
    "fit_classes",
    "load_base",
    "with_shape_of",
]

_MEASURED = 128  # images that the scale of an autoencoder's latents is measured on


def encode_with_noise(
    flow: Flow, images: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Latents and log|det| of uint8 images under uniform dequantisation noise.

    Statistics need the noise: without it, a pixel that is constant over all images (a black border)
    has zero variance, and the fixed point would divide by it.
    """
    shape = (len(images), *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=images.device)
    return flow.encode(images, noise)


def fit(
    flow: Flow | Checkpoint | str | os.PathLike[str],
    dataset: Dataset[Any] | DataLoader[Any] | Sequence[tuple[Any, int]] | str | os.PathLike[str],
    *,
    gaussians: str | FixedPointConfig | GradientDescentConfig = "data",
    rank: int = 64,
    max_per_class: int = 1000,
    memory: bool = True,
    grayscale: bool = False,
    autoencoder: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    distributed: bool = False,
    progress: bool = True,
) -> Checkpoint:
    """Fit class gaussians, PCA axes and the partner memory of a data set under an existing flow.

    The flow itself is not trained. PIL images and image files of another size are resized until
    their shorter side fits, and their centre is cropped. A class of one image gets no axes and no
    partner, with a warning: `NFAugment` leaves its images unchanged.

    Args:
        flow: A flow, a checkpoint, or what `nfaug.load` takes: "builtin:NAME", a directory, or
            "owner/name" on the Hub.
        dataset: A data set of (image, label), such as torchvision's ImageFolder, or a Hugging Face
            `Dataset` with the columns `image` and `label`; see `nfaug.training.wrap_dataset`.
            Labels are 0..K-1. For a DataLoader, its data set is used. A path or name is opened
            with `nfaug.training.open_dataset`, at the flow's size.
        gaussians: "data" for the mean and variance of each class's latents (the maximum-likelihood
            solution), "fpi", "gradient", or the settings of one of these two.
        rank: PCA axes per class. A class of N images has at most N - 1.
        max_per_class: The largest number of images of a class that are encoded, chosen by `seed`.
        memory: Whether to keep the PCA coefficients of every encoded image. `NFAugment` draws
            partners from them.
        grayscale: Whether colour images are converted for a one-channel flow; if not, they are an
            error.
        autoencoder: Directory or Hub repository of an autoencoder. With a `shape_free` flow on
            pixels, such as "builtin:pixels", the fit is on the latents of this autoencoder. For the
            name of a flow on latents, it is where that flow's autoencoder is.
        batch_size: Images per encoding step.
        seed: Seed of the choice of images and of the dequantisation noise.
        distributed: Whether the processes of `torchrun` share the classes. Each must call this
            function; each returns the whole result, which is that of one process up to rounding.
        progress: Whether to show progress bars.

    Returns:
        A checkpoint with the same flow, and the gaussians and axes of these classes.

    Raises:
        ValueError: If the images do not have the flow's shape (a `shape_free` flow takes any), a
            class has none, or a setting is out of range.
        FixedPointDivergence: See `nfaug.classes.fixed_point.solve`.

    Example:
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> dataset = torch.utils.data.TensorDataset(images, torch.arange(8) % 2)
        >>> checkpoint = fit("builtin:rgb32", dataset, rank=3)
        >>> checkpoint.config.class_names, checkpoint.pca.rank
        (('0', '1'), 3)
    """
    if rank < 1 or max_per_class < 2:
        raise ValueError(
            f"rank must be at least 1 and max_per_class 2; got {rank} and {max_per_class}"
        )
    with torch.device("cpu"):  # not torch's default device, which may be "meta"
        chosen = choose_prior(gaussians)
        given = {"flow": flow, "data": dataset}
        names = {k: public_name(v) for k, v in given.items() if isinstance(v, str | os.PathLike)}
        if isinstance(flow, str | os.PathLike):
            flow = load_base(flow if isinstance(flow, str) else Path(flow), autoencoder)
        if isinstance(flow, Flow):
            flow = Checkpoint(flow, CheckpointConfig(flow.config, autoencoder=flow.codec.record))
        images = _labelled_images(flow.flow, dataset, grayscale=grayscale)
        base = with_shape_of(flow, images, autoencoder, seed=seed)
        check_images(base.flow, images)
        check_class_sizes(images.targets, images.classes)
        with joined() if distributed else contextlib.nullcontext(Ranks()) as ranks:
            stats, pca = fit_classes(
                base.flow,
                _batches(images),
                images.classes,
                rank=rank,
                max_per_class=max_per_class,
                memory=memory,
                batch_size=batch_size,
                seed=seed,
                ranks=ranks,
                progress=progress and ranks.main,
            )
        counts, means, variances = stats.finalize(class_names=images.classes, pool_single=True)
        means, variances, record = chosen.entry.solve(means, variances, chosen.settings, None)
        record = {"kind": chosen.kind, **record, "fitted": True, "images": int(counts.sum())}
        config = replace(
            base.config,
            class_names=tuple(images.classes),
            preprocessing={**base.config.preprocessing, **images.preprocessing},
            gaussians={**record, **names},
            metrics={},
        )
        return Checkpoint(base.flow, config, ClassGaussians(means, variances, counts), pca)


def _labelled_images(flow: Flow, data: Any, *, grayscale: bool) -> LabelledImages:
    """The images of `fit`'s argument `dataset`, at the flow's size where they can be resized."""
    shape: dict[str, Any] = {}
    if not flow.shape_free:
        shape = {"image_size": flow.codec.image_size, "channels": flow.codec.channels}
    if isinstance(data, str | os.PathLike):
        return open_dataset(data, convert=grayscale, **shape)
    if isinstance(data, DataLoader):
        data = data.dataset
    unknown = not isinstance(data, LabelledImages | IterableDataset | Mapping)
    first = data[0] if unknown and hasattr(data, "__len__") and len(data) else None
    values = first.values() if isinstance(first, Mapping) else first
    if isinstance(values, Iterable) and any(isinstance(value, Image.Image) for value in values):
        return wrap_dataset(data, convert=grayscale, **shape)
    return wrap_dataset(data, channels=1 if grayscale and shape.get("channels") == 1 else None)


class _Decoded:
    """Images that are decoded when they are needed, in threads if that helps; see `Batches`."""

    def __init__(self, images: LabelledImages) -> None:
        self.images, self.labels = images, images.targets

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in order.split(batch_size):
            part = self.images.subset(rows)
            title, threads = "reading images", part.threads
            decoded = run_over(part.image, len(part), title, threads=threads, progress=False)
            yield torch.stack([*decoded]), part.targets

    def subset(self, rows: Tensor) -> _Decoded:
        return _Decoded(self.images.subset(rows))


def _batches(images: LabelledImages) -> Batches:
    if isinstance(images, TensorImages):
        return MemoryBatches(images.images, images.targets)
    return _Decoded(images)


def load_base(source: str | Path, autoencoder: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Load the checkpoint that a fit starts from.

    `autoencoder` is used if the flow works on latents. For others see `with_shape_of`.
    """
    if autoencoder is None:
        return load(source)
    if "autoencoder" not in read_resolved(read_manifest, source, whole=False):
        return load(source)
    return load(source, autoencoder=os.fspath(autoencoder))


def with_shape_of(
    checkpoint: Checkpoint,
    images: Any,
    autoencoder: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
) -> Checkpoint:
    """Return the checkpoint with a flow for the images' shape, if its flow serves every shape.

    Other checkpoints are returned unchanged. Class statistics are dropped if the shape changes.

    Args:
        checkpoint: The checkpoint.
        images: A `LabelledImages` data set.
        autoencoder: Directory or repository of an autoencoder, whose latents take the place of the
            images; ignored for a flow that is on latents already.
        seed: Seed of the choice of images on which the scale of the latents is measured.

    Raises:
        ValueError: If there is an autoencoder and the flow serves one shape of images only, or the
            autoencoder does not fit the images.
    """
    flow = checkpoint.flow
    if autoencoder is not None and flow.codec.record is None:
        if not flow.shape_free:
            raise ValueError(
                f"autoencoder={str(autoencoder)!r} needs a flow that serves every shape, such as "
                f"builtin:pixels, or one that was trained on latents; got {flow}"
            )
        choice = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(images), generator=choice)[:_MEASURED]
        measured = torch.stack([images[row][0] for row in rows.tolist()])
        codec = measure_codec(str(autoencoder), measured, device=flow.device)
        channels, height, width = codec.latent_shape
        flow = flow.with_shape(channels, (height, width))
        flow = Flow(flow.config, codec=codec.for_flow(flow.config)).to(flow.device).eval()
        config = replace(checkpoint.config, flow=flow.config, autoencoder=codec.record)
        return Checkpoint(flow, config)
    shape = (images.channels, tuple(images.image_size))
    if not flow.shape_free or shape == (flow.config.channels, flow.config.image_size):
        return checkpoint
    flow = flow.with_shape(*shape)
    return Checkpoint(flow, replace(checkpoint.config, flow=flow.config))


def check_images(flow: Flow, images: Any) -> None:
    """Check that the images of a data set have the flow's shape.

    Raises:
        ValueError: If they do not. The message has both shapes.
    """
    expected = (flow.codec.channels, *flow.codec.image_size)
    found = (images.channels, *images.image_size)
    if expected != found:
        raise ValueError(
            f"the flow takes images of shape {expected} (channels, height, width); got {found}. "
            f"Convert the data set with nfaug.training.wrap_dataset(dataset, "
            f"channels={expected[0]}, image_size={expected[1:]})"
        )


@torch.no_grad()
def fit_classes(
    flow: Flow,
    data: Batches,
    class_names: Sequence[str],
    *,
    rank: int,
    max_per_class: int,
    memory: bool,
    batch_size: int = 256,
    seed: int = 0,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> tuple[ClassStatistics, ClasswisePCA]:
    """Class statistics, under dequantisation noise, and PCA, with images encoded as at run time.

    Every class must have an image. The images and the latents of one class at a time are in memory.
    Processes take turns at the classes; draws depend on the class alone, so that the result is that
    of one process: the axes bit for bit, the statistics up to the rounding of `all_reduce`.
    """
    flow = flow.freeze()
    device = flow.device
    ranks = ranks or Ranks()
    stats = ClassStatistics(len(class_names), flow.config.dim)
    order: dict[int, tuple[Tensor, torch.Generator]] = {}
    for y in filter(ranks.owns, range(len(class_names))):
        rows = (data.labels == y).nonzero().flatten()
        draws = torch.Generator().manual_seed((seed * len(class_names) + y) % 2**63)
        chosen = torch.randperm(len(rows), generator=draws)[:max_per_class].sort().values
        order[y] = rows[chosen], draws
    total = sum(len(rows) for rows, _ in order.values())
    fits: dict[int, StoredFit] = {}
    with progress_bar(total, "fit", "image", shown=progress) as bar:
        for y, (rows, draws) in order.items():
            noise = torch.Generator(device).manual_seed((seed * len(class_names) + y) % 2**63)
            parts = []
            for images, _ in data.iterate(rows, batch_size):
                batch = flow.codec.prepare(images.to(device))
                noisy = encode_with_noise(flow, batch, noise)[0]
                stats.update(noisy, torch.full((len(batch),), y, device=device))
                parts.append(flow.encode(batch)[0].flatten(1))
                bar.update(len(batch))
            fits[y] = fit_stored(
                torch.cat(parts), y, rank=rank, memory=memory, allow_single=True, generator=draws
            )
            bar.set_description(f"fit, class {len(fits)} of {len(order)}", refresh=False)
    if ranks.count > 1:
        stats.all_reduce()
    stored = ranks.collect(fits, len(class_names))
    return stats, assemble(stored, rank=rank, memory=memory)
