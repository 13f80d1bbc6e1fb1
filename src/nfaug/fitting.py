"""Fit an existing flow to the classes of a data set, in one pass over the images."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from .checkpoint.manifest import read_manifest
from .checkpoint.resolve import read_resolved
from .classes.fixed_point.config import FixedPointConfig
from .classes.gaussians import ClassGaussians
from .classes.pca_fit import ClassFit, ClasswisePCA, assemble, fit_class
from .classes.priors import GradientDescentConfig, choose_prior
from .classes.statistics import ClassStatistics
from .data.batches import Batches, MemoryBatches, progress_bar
from .data.classes import check_class_sizes
from .data.images import LabelledImages, spread, to_tensors
from .data.open import open_dataset, wrap_dataset
from .data.preprocess import as_size, size_of
from .flows.autoencoder import AutoencoderSource
from .flows.flow import Flow
from .flows.latent_codec import measure_codec
from .io.ranks import Ranks, joined
from .io.text import public_name

__all__ = ["common_size", "fit", "fit_classes", "load_base", "open_fitted", "open_images"]

_MEASURED = 128  # images that the scale of an autoencoder's latents is measured on
_PEEKS = 64  # images whose sizes are compared
_SIDE = 128  # largest default size of images that differ in size, for a flow of any size
_DRAWN = 160  # largest default size of images that are drawn
_PER_CLASS = 100  # images per class that a flow is fitted to before it is drawn


def fit(
    checkpoint: Flow | Checkpoint | str | os.PathLike[str],
    data: Dataset[Any] | Sequence[tuple[Any, int]] | str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    gaussians: str | FixedPointConfig | GradientDescentConfig = "data",
    rank: int = 64,
    per_class: int = 1000,
    memory: bool = True,
    grayscale: bool = False,
    autoencoder: AutoencoderSource | None = None,
    batch_size: int = 256,
    seed: int = 0,
    distributed: bool = False,
    progress: bool = True,
) -> Checkpoint:
    """Fit class gaussians, PCA axes and the partner memory of a data set under an existing flow.

    The flow itself is not trained. Images of another size are resized until their shorter side
    fits, and their centre is cropped. A class of one image gets no axes and no partner, with a
    warning: `NFAugment` leaves its images unchanged.

    Args:
        checkpoint: A checkpoint, a flow, or what `nfaug.load` takes: "builtin:NAME", a directory,
            or "owner/name" on the Hub.
        data: A data set of (image, label), such as torchvision's ImageFolder, or a Hugging Face
            `Dataset` with the columns `image` and `label`; see `nfaug.wrap_dataset`.
            Labels are 0..K-1. A path or name is opened with `open_dataset`. For a part of the
            images, such as what a sampler draws, pass a `torch.utils.data.Subset`.
        image_size: For a flow of any size, such as "builtin:pixels": the side of a square or
            (height, width) to resize and crop to. By default the images' own size or, if they
            differ, a square of 128 pixels or of their median shorter side if that is smaller, with
            a warning.
        gaussians: "data" for the mean and variance of each class's latents (the maximum-likelihood
            solution), "fpi", "gradient", or the settings of one of these two.
        rank: PCA axes per class. A class of N images has at most N - 1.
        per_class: The largest number of images of a class that are encoded, chosen by `seed`.
        memory: Whether to keep the PCA coefficients of every encoded image. `NFAugment` draws
            partners from them.
        grayscale: Whether colour images are converted for a one-channel flow; if not, they are an
            error.
        autoencoder: An autoencoder: a safetensors file, a directory, a repository on the Hub, or a
            `torch.nn.Module` of your own (see `nfaug.flows.autoencoder.Autoencoder`). With a
            `shape_free` flow on pixels, such as "builtin:pixels", the fit is on its latents. For
            the name of a flow on latents, it is the flow's own, which a loaded flow keeps.
        batch_size: Images per encoding step.
        seed: Seed of the choice of images and of the dequantisation noise.
        distributed: Whether the processes of `torchrun` share the classes. Each must call this
            function; each returns the whole result, which is that of one process up to rounding.
        progress: Whether to show progress bars.

    Returns:
        A checkpoint with the same flow, and the gaussians and axes of these classes.

    Raises:
        ValueError: If the images cannot be converted to the flow's channels, a class has none, or
            a setting is out of range.
        FixedPointDivergence: See `nfaug.classes.fixed_point.solve`.

    Example:
        >>> images = torch.randint(256, (8, 3, 48, 40), dtype=torch.uint8)
        >>> dataset = torch.utils.data.TensorDataset(images, torch.arange(8) % 2)
        >>> fitted = fit("builtin:rgb32", dataset, rank=3)
        >>> fitted.config.classes, fitted.pca.rank
        (('0', '1'), 3)
    """
    if rank < 1 or batch_size < 1 or per_class < 2:
        raise ValueError(
            "rank and batch_size must be 1 or more, and per_class 2 or more; got "
            f"rank={rank}, batch_size={batch_size}, per_class={per_class}"
        )
    with torch.device("cpu"):  # not torch's default device, which may be "meta"
        prior = choose_prior(gaussians)
        base = load_base(checkpoint, autoencoder)
        images = open_images(base.flow, data, image_size=image_size, grayscale=grayscale)
        base = _shaped(base, images, autoencoder, seed)
        check_class_sizes(images.targets, images.classes)
        least = prior.entry.min_classes
        if len(images.classes) < least:
            raise ValueError(f"gaussians {prior.kind!r} need {least} classes; 'data' needs one")
        with joined() if distributed else contextlib.nullcontext(Ranks()) as ranks:
            stats, pca = fit_classes(
                base.flow,
                _ClassesInTurn(images),
                images.classes,
                rank=rank,
                per_class=per_class,
                memory=memory,
                batch_size=batch_size,
                seed=seed,
                ranks=ranks,
                progress=progress and ranks.main,
            )
        counts, means, variances = stats.finalize()
        means, variances, solution = prior.entry.solve(means, variances, prior.settings, None)
        record: dict[str, Any] = {"kind": prior.kind}
        record.update(solution)
        record["fitted"] = True
        record["images"] = int(counts.sum())
        if isinstance(checkpoint, str | os.PathLike):
            record["flow"] = public_name(checkpoint)
        if isinstance(data, str | os.PathLike):
            record["data"] = public_name(data)
        config = replace(
            base.config,
            classes=tuple(images.classes),
            preprocessing=base.config.preprocessing | images.preprocessing,
            gaussians=record,
            metrics={},
        )
        fitted = Checkpoint(base.flow, config, ClassGaussians(means, variances, counts), pca)
        return fitted.to(base.flow.device)


def load_base(
    checkpoint: Flow | Checkpoint | str | os.PathLike[str],
    autoencoder: AutoencoderSource | None = None,
) -> Checkpoint:
    """The checkpoint that a fit starts from, for the argument `checkpoint` of `fit`.

    `autoencoder` is used here only for the name of a flow on latents, which is loaded with it.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    if isinstance(checkpoint, Flow):
        config = CheckpointConfig(checkpoint.config, autoencoder=checkpoint.codec.record)
        return Checkpoint(checkpoint, config)
    source = os.fspath(checkpoint)
    if autoencoder is not None:
        manifest = read_resolved(read_manifest, source, whole=False)
        if "autoencoder" not in manifest:  # the flow is on pixels
            autoencoder = None
    return load(source, autoencoder=autoencoder)


def open_images(
    flow: Flow,
    data: Any,
    *,
    image_size: int | tuple[int, int] | None = None,
    grayscale: bool = True,
    **reading: Any,
) -> LabelledImages:
    """Open a data set at the size and with the channels that a flow takes.

    The arguments are those of `fit`. With a path or a name, `reading` may hold other arguments of
    `open_dataset`.

    Raises:
        ValueError: `image_size` is given for a flow of another size, or see `open_dataset`.
    """
    size = None if image_size is None else as_size(image_size)
    channels = None
    if not flow.shape_free:
        if size not in (None, flow.codec.image_size):
            raise ValueError(
                f"image_size={image_size} is for flows of any size, such as builtin:pixels; this "
                f"flow takes images of {flow.codec.image_size}, and others are resized to that"
            )
        size = flow.codec.image_size
        channels = flow.codec.channels
    if isinstance(data, LabelledImages):
        same_size = size in (None, data.image_size)
        same_channels = channels in (None, data.channels)
        if same_size and same_channels:
            return data
    first_size = size or 1  # a size that follows from the images is set below
    if isinstance(data, str | os.PathLike):
        images = open_dataset(
            data, image_size=first_size, channels=channels, convert=grayscale, **reading
        )
    else:
        images = wrap_dataset(data, image_size=first_size, channels=channels, convert=grayscale)
    if size is None:
        images = images.resized(common_size(images, _SIDE))
    return images


def open_fitted(
    base: Checkpoint,
    data: Any,
    *,
    image_size: int | tuple[int, int] | None = None,
    autoencoder: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> tuple[Checkpoint, LabelledImages]:
    """Open images to draw variants of, with a flow that knows their classes.

    A flow without axes, or of other classes, is first fitted to up to 100 images of each class.
    The images have `image_size` or, by default, their stored size, scaled down until no side has
    more than 160 pixels. Arguments and errors are those of `open_images` and `fit`.
    """
    any_size = base.flow.shape_free
    images = open_images(base.flow, data, image_size=image_size if any_size else None, **reading)
    if image_size is None:
        height, width = images.image_size if any_size else common_size(images, _DRAWN)
        scale = min(1.0, _DRAWN / max(height, width))
        image_size = (round(height * scale), round(width * scale))
    if base.pca is None or tuple(images.classes) != base.config.classes:
        base = fit(base, images, autoencoder=autoencoder, per_class=_PER_CLASS)
    return base, images.resized(as_size(image_size))


def common_size(images: LabelledImages, most: int) -> tuple[int, int]:
    """The stored size of the images; if they differ, a square, with a warning.

    The side of the square is `most` or, if that is smaller, the median shorter side.
    """
    rows = images.indices[spread(len(images), _PEEKS)].tolist()
    sizes = [size_of(images.reader.read(row)) for row in rows]
    if len(set(sizes)) == 1:
        return sizes[0]
    shorter_sides = sorted(min(size) for size in sizes)
    side = min(most, shorter_sides[len(sizes) // 2])
    warnings.warn(
        f"the images differ in size; they are resized and cropped to {side} x {side} pixels. "
        "image_size (--image-size) chooses another size",
        stacklevel=3,
    )
    return side, side


def _shaped(
    base: Checkpoint, images: LabelledImages, autoencoder: AutoencoderSource | None, seed: int
) -> Checkpoint:
    """The checkpoint with a flow for the images' shape, if its flow serves every shape.

    With an autoencoder, the flow is one on its latents, whose scale is measured on some images.
    """
    flow = base.flow
    if autoencoder is None or flow.codec.record is not None:
        same_channels = images.channels == flow.config.channels
        same_size = images.image_size == flow.config.image_size
        if not flow.shape_free or (same_channels and same_size):
            return base
        flow = flow.with_shape(images.channels, images.image_size)
        return Checkpoint(flow, replace(base.config, flow=flow.config))
    if not flow.shape_free:
        raise ValueError(
            "autoencoder= needs a flow that serves every shape, such as builtin:pixels, or one "
            f"that was trained on latents; got {flow}"
        )
    choice = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=choice)[:_MEASURED]
    measured = torch.stack([images[row][0] for row in rows.tolist()])
    codec = measure_codec(autoencoder, measured, device=flow.device)
    channels, height, width = codec.latent_shape
    flow = flow.with_shape(channels, (height, width))
    flow = Flow(flow.config, codec=codec.for_flow(flow.config)).to(flow.device).eval()
    return Checkpoint(flow, replace(base.config, flow=flow.config, autoencoder=codec.record))


class _ClassesInTurn:
    """Batches whose images are decoded together: in a fit, the images of one class."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images
        self.labels = images.targets

    def iterate(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        decoded = MemoryBatches(*to_tensors(self.images.subset(order), progress=False))
        return decoded.iterate(torch.arange(len(order)), batch_size)


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
    ranks: Ranks | None = None,
    progress: bool = True,
) -> tuple[ClassStatistics, ClasswisePCA]:
    """Class statistics, under dequantisation noise, and PCA, with images encoded as at run time.

    Every class must have an image. The images and the latents of one class at a time are in memory.
    Each process fits every k-th class, where k is their number. Random numbers depend on the class
    alone, so the result is that of one process with as many threads: axes bit for bit, statistics
    up to rounding.
    """
    flow = flow.freeze()
    ranks = ranks or Ranks()
    num_classes = len(classes)
    stats = ClassStatistics(num_classes, flow.config.dim)
    own_classes = list(range(ranks.rank, num_classes, ranks.count))
    sizes = torch.bincount(data.labels, minlength=num_classes).clamp(max=per_class)
    fits: dict[int, ClassFit] = {}
    with progress_bar(int(sizes[own_classes].sum()), "fit", "image", shown=progress) as bar:
        for label in own_classes:
            class_seed = (seed * num_classes + label) % 2**63
            choice_generator = torch.Generator("cpu").manual_seed(class_seed)
            noise_generator = torch.Generator(flow.device).manual_seed(class_seed)
            rows = (data.labels == label).nonzero().flatten()
            order = torch.randperm(len(rows), generator=choice_generator)
            chosen = order[:per_class].sort().values
            latents = []
            for images, labels in data.iterate(rows[chosen], batch_size):
                batch = flow.codec.prepare(images.to(flow.device))
                shape = (len(batch), *flow.config.shape)
                noise = torch.rand(shape, generator=noise_generator, device=flow.device)
                stats.update(flow.encode(batch, noise)[0], labels.to(flow.device))
                latents.append(flow.encode(batch)[0].flatten(1))
                bar.update(len(batch))
            fits[label] = fit_class(
                torch.cat(latents), rank, label=label, generator=choice_generator
            )
    if ranks.count > 1:
        stats.all_reduce()
    return stats, assemble(ranks.collect(fits, num_classes), memory=memory)
