"""Fit an existing flow to the classes of a dataset, in one pass over the images."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from ..checkpoint.autoencoder import AutoencoderSource, open_codec
from ..checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from ..checkpoint.manifest import read_manifest
from ..checkpoint.resolve import repository_name, resolve
from ..classes.fixed_point.config import FixedPointConfig
from ..classes.gaussians import ClassGaussians
from ..classes.pca import GEMM_CLASSES
from ..classes.priors import PriorConfig
from ..classes.statistics import ClassStatistics
from ..data.batches import decode
from ..data.classes import check_class_sizes
from ..data.images import Images
from ..data.open import open_dataset
from ..data.view import SIDE, Wanted
from ..flows.flow import Flow
from ..io.progress import progress_bar
from ..io.text import public_name
from ..run.device import pick_device
from ..run.ranks import Ranks, joined
from .classes import fit_classes
from .config import FitConfig
from .run import FinishedClasses, FitRun

_MEASURED = 128  # images that the scale of an autoencoder's latents is measured on
_DRAWN = 160  # largest default size of images that are drawn
_LARGE = 512**2  # pixels of an image above which a size that nobody chose is a warning
_MUCH = 4e9  # bytes of axes from which a warning says how much memory they take
_PER_CLASS = 100  # images per class that a flow is fitted to before it is drawn


def fit(
    checkpoint: Flow | Checkpoint | str | os.PathLike[str],
    data: Dataset[Any] | Sequence[tuple[Any, int]] | str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    gaussians: bool | str | FixedPointConfig = False,
    rank: int = 64,
    per_class: int = 1000,
    memory: bool = True,
    autoencoder: AutoencoderSource | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    batch_size: int = 256,
    seed: int = 0,
    distributed: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Fit a checkpoint to the classes of a dataset, in one pass over the images.

    For each class it computes the axes along which its latents vary (by a randomized SVD,
    arXiv:0909.4061) and the memory of partners. Nothing is trained. Images of another size are
    resized until their shorter side fits, and their centre is cropped. A class of one image gets
    no axes and no partner, with a warning: `NFAugment` leaves its images unchanged.

    The mode is pixels with "builtin:pixels", autoencoder with "builtin:pixels" and `autoencoder`,
    and flow with another checkpoint.

    Args:
        checkpoint: A checkpoint, a flow, or what `nfaug.load` takes: "builtin:NAME", a folder, or
            "owner/name" on the Hub.
        data: A dataset of (image, label), such as torchvision's ImageFolder, or a Hugging Face
            `Dataset` with the columns `image` and `label`, or a path or a name; see
            `nfaug.open_dataset`. Labels are 0..K-1. For a part of the images, such as what a
            sampler draws, pass a `torch.utils.data.Subset`.
        image_size: For a flow of any size, such as "builtin:pixels": the side of a square or
            (height, width) to resize and crop to. By default the images' own size or, if they
            differ, a square of 128 pixels or of their median shorter side if that is smaller, with
            a warning.
        channels: For a flow of any shape, such as "builtin:pixels": 1 for grayscale or 3 for
            color. By default 1 if all of 64 images are grayscale, and 3 otherwise. For a network
            that takes color images, fit grayscale ones with 3. For a flow of one channel, color
            images are an error unless this is 1, which converts them.
        gaussians: Whether to find a Gaussian for each class, which `NFAugment` does not use;
            `Checkpoint.sample`, `nfaug sample` and `nfaug eval` do. They take a second encoding of
            every image. True or "data" for the mean and variance of each class's latents (the
            maximum-likelihood solution), "fpi" for the fixed point, the settings of the fixed
            point, or a prior of your own in `nfaug.classes.priors.PRIORS`.
        rank: Axes per class. A class of N images has at most N - 1.
        per_class: Encode at most this many images of each class, chosen by `seed`.
        memory: Whether to keep the coefficients of every encoded image, from which `NFAugment`
            draws partners. Training images can nearly be rebuilt from them.
        autoencoder: An autoencoder: a safetensors file, a directory, a repository on the Hub, or a
            `torch.nn.Module` of your own (see `nfaug.flows.autoencoder.Autoencoder`). With a
            `shape_free` flow on pixels, such as "builtin:pixels", the fit is on its latents. If
            `checkpoint` is the name of one that works on latents, pass the autoencoder that it was
            trained with; a loaded `Checkpoint` already has it.
        mean: Mean that the images of a dataset are normalized by, a number or one per channel; by
            default that of a `Normalize` at the end of its transform.
        std: Standard deviation that they are normalized by, like `mean`.
        batch_size: Images per encoding step.
        seed: Seed of the choice of images and of the dequantisation noise.
        distributed: Whether the processes of `torchrun` share the classes. Each must call this
            function; each returns the whole result, which is that of one process.
        device: Where images are encoded, such as "cuda"; "auto" is the GPU if there is one. The
            flow goes there and comes back, with the result, to where it was: a name is loaded on
            the CPU. None for the device of the flow.
        progress: Whether to show progress bars.

    Returns:
        A checkpoint with the same flow, and the axes and memory of these classes.

    Raises:
        ValueError: If the images cannot be converted to the flow's channels, a class has none, or
            a setting is out of range.
        FixedPointDivergence: See `nfaug.classes.fixed_point.solve`.

    Example:
        >>> import nfaug
        >>> images = torch.randint(256, (8, 3, 48, 40), dtype=torch.uint8)
        >>> dataset = torch.utils.data.TensorDataset(images, torch.arange(8) % 2)
        >>> checkpoint = nfaug.fit("builtin:pixels", dataset, rank=3, progress=False)
        >>> checkpoint.config.classes, checkpoint.pca.rank
        (('0', '1'), 3)
    """
    config = FitConfig(
        rank=rank,
        per_class=per_class,
        memory=memory,
        gaussians=gaussians,
        batch_size=batch_size,
        seed=seed,
    )
    group = joined() if distributed else contextlib.nullcontext(Ranks())
    with group as ranks:
        with _on_cpu():
            base = load_base(checkpoint, autoencoder)
            images = open_images(
                base.flow,
                data,
                image_size=image_size,
                channels=channels,
                mean=mean,
                std=std,
                progress=progress and ranks.main,
            )
        home = base.flow.device
        if device is not None:
            base.flow.to(pick_device(str(device)))
        try:
            fitted = fit_images(
                base,
                images,
                config,
                autoencoder=autoencoder,
                source=fit_source(checkpoint, data),
                ranks=ranks,
                progress=progress,
            )
        finally:
            base.flow.to(home)
    assert fitted is not None
    fitted.to(home)
    if isinstance(data, str | os.PathLike):
        fitted.source = os.fspath(data)
    return fitted


def load_base(
    checkpoint: Flow | Checkpoint | str | os.PathLike[str],
    autoencoder: AutoencoderSource | None = None,
) -> Checkpoint:
    """The checkpoint that a fit starts from, for the argument `checkpoint` of `fit`.

    `autoencoder` is used here only for the name of a flow on latents, which is loaded with it.
    Class Gaussians are not read: a fit does not use those of its start.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    if isinstance(checkpoint, Flow):
        config = CheckpointConfig(checkpoint.config, autoencoder=checkpoint.codec.record)
        return Checkpoint(checkpoint, config)
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            'the checkpoint comes first, then the images, as in nfaug.fit("builtin:pixels", '
            f"dataset); got {type(checkpoint).__name__} as the checkpoint"
        )
    source = os.fspath(checkpoint)
    if autoencoder is not None:
        manifest = read_manifest(resolve(source, whole=False))
        if "autoencoder" not in manifest:  # the flow is on pixels
            autoencoder = None
    return load(source, autoencoder=autoencoder, gaussians=False)


def open_images(
    flow: Flow,
    data: Any,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    progress: bool = True,
    **reading: Any,
) -> Images:
    """Open a dataset at the size and with the channels that a flow takes.

    Color images become gray for a flow of one channel only if `channels` is 1. The arguments are
    those of `fit`; `reading` may hold others of `open_dataset`.

    Raises:
        ValueError: `image_size` or `channels` is given for a flow of others, or see
            `open_dataset`.
    """
    wanted = flow.wanted.chosen(channels, image_size)
    images = open_dataset(
        data,
        image_size=wanted.image_size,
        channels=wanted.channels,
        convert=channels == 1,
        progress=progress,
        **reading,
    )
    if image_size is None:
        _warn_of_size(images)
    return images.suited(wanted, convert=channels == 1, progress=progress)


def _warn_of_size(images: Images) -> None:
    """Say what a fit to large images takes, if their size is not one that was asked for."""
    if not images.has_stored_size or math.prod(images.image_size) <= _LARGE:
        return
    height, width = images.image_size
    an_image = 4 * images.channels * height * width  # float32
    most = int(images.targets.bincount().max()) * an_image
    warnings.warn(
        f"the images are fitted at their own size, {height} x {width} pixels, of which each takes "
        f"{an_image / 1e6:,.0f} MB of memory: the largest class {most / 1e9:,.1f} GB while it is "
        "fitted, and the axes of each class up to half as much. image_size (--image-size), such as "
        f"{SIDE}, takes less memory and time",
        stacklevel=4,
    )


def _on_cpu() -> AbstractContextManager[Any]:
    """Make new tensors on the CPU, also if torch's default device is another, such as "meta"."""
    if torch.get_default_device().type == "cpu":
        return contextlib.nullcontext()  # the other context slows each call of torch
    return torch.device("cpu")


def fit_source(checkpoint: Any, data: Any) -> dict[str, str]:
    """The public names of the flow and the data of a fit, of those that have one."""
    names = {}
    if isinstance(checkpoint, str | os.PathLike):
        names["flow"] = public_name(repository_name(os.fspath(checkpoint)))
    if isinstance(data, str | os.PathLike):
        names["data"] = public_name(data)
    return names


def fit_images(
    base: Checkpoint,
    images: Images,
    config: FitConfig | None = None,
    *,
    autoencoder: AutoencoderSource | None = None,
    source: Mapping[str, str] | None = None,
    ranks: Ranks | None = None,
    run: FitRun | None = None,
    progress: bool = True,
) -> Checkpoint | None:
    """Fit a flow and images that are open; errors are those of `fit`.

    Args:
        base: The flow, and what its checkpoint says of it.
        images: What `open_images` returns for this flow.
        config: The settings.
        autoencoder: As in `fit`.
        source: What the checkpoint says of where flow and images are from; see `fit_source`.
        ranks: The processes that share the classes; each calls this function.
        run: Where finished classes are kept, so that the same call continues a fit that was
            killed. Only the main process then gets the result, and the others None.
        progress: Whether to show progress bars.
    """
    config = config or FitConfig()
    ranks = ranks or Ranks()
    shown = progress and ranks.main
    prior = config.prior
    check_class_sizes(images.targets, images.classes)
    if prior is not None and len(images.classes) < prior.entry.min_classes:
        raise ValueError(
            f"gaussians {prior.kind!r} need {prior.entry.min_classes} classes; 'data' needs one"
        )
    with _on_cpu():
        base = _shaped(base, images, autoencoder, config.seed, shown)
        if ranks.main:
            _warn_of_memory(base.flow.config.dim, images, min(config.rank, config.per_class - 1))
        finished = None
        if run is not None:
            finished = FinishedClasses(run.folder, base.flow, images, config)
        fitted = fit_classes(
            base.flow,
            images,
            images.classes,
            config,
            ranks=ranks,
            everywhere=run is None,
            finished=finished,
            progress=shown,
        )
        if fitted is None:
            return None
        record: dict[str, Any] = {}
        gaussians = None
        if fitted.statistics is not None:
            assert prior is not None
            gaussians, record = _solve(prior, fitted.statistics, shown)
        record["fitted"] = True
        record["images"] = int(fitted.pca.counts.sum())
        record.update(source or {})
        fitted_config = replace(
            base.config,
            classes=tuple(images.classes),
            preprocessing=base.config.preprocessing | images.preprocessing,
            gaussians=record,
            metrics={},
        )
        return Checkpoint(base.flow, fitted_config, gaussians, fitted.pca).to(base.flow.device)


def _solve(
    prior: PriorConfig, statistics: ClassStatistics, shown: bool
) -> tuple[ClassGaussians, dict[str, Any]]:
    """The Gaussians of the classes, and a record of how they were found."""
    counts, means, variances = statistics.finalize()
    with progress_bar(None, "solving for the Gaussians", shown=shown):
        means, variances, solution = prior.entry.solve(means, variances, prior.settings, None)
    return ClassGaussians(means, variances, counts), {"kind": prior.kind, **solution}


def _warn_of_memory(dim: int, images: Images, rank: int) -> None:
    """Say how much memory the axes of many classes take, before hours of work."""
    sizes = images.targets.bincount(minlength=len(images.classes))
    axes = sizes.sub(1).clamp(max=rank)
    nbytes = int(axes.max()) * len(sizes) * dim * (4 if len(sizes) <= GEMM_CLASSES else 2)
    if nbytes < _MUCH:
        return
    warnings.warn(
        f"the axes of {len(sizes)} classes take {nbytes / 1e9:.1f} GB of memory: here, and in each "
        "process that augments. A smaller image_size (--image-size) or rank (--rank) "
        "needs less, and so do a flow of 32 pixels (builtin:rgb32) and an autoencoder's latents "
        "(--autoencoder)",
        stacklevel=3,
    )


def open_fitted(
    base: Checkpoint,
    data: Any,
    *,
    image_size: int | tuple[int, int] | None = None,
    autoencoder: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> tuple[Checkpoint, Images]:
    """Open images to draw variants of, with a flow that knows their classes.

    A flow without axes, or of other classes, is first fitted to up to 100 images of each class.
    The images have `image_size` or, by default, their stored size, scaled down until no side has
    more than 160 pixels. Arguments and errors are those of `open_images` and `fit`.
    """
    images = open_dataset(data, **reading)
    is_fitted = base.pca is not None and tuple(images.classes) == base.config.classes
    known = Wanted()
    if is_fitted or not base.flow.shape_free:
        known = Wanted(base.flow.codec.channels)
    drawn = images.suited(known.chosen(image_size=image_size), _DRAWN, shrink=True, progress=True)
    if not is_fitted:
        config = FitConfig(per_class=_PER_CLASS)
        fitted = fit_images(base, open_images(base.flow, drawn), config, autoencoder=autoencoder)
        assert fitted is not None
        base = fitted
    return base, drawn


def _shaped(
    base: Checkpoint,
    images: Images,
    autoencoder: AutoencoderSource | None,
    seed: int,
    progress: bool,
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
    measured = decode(images.subset(rows), progress=progress)
    codec = open_codec(autoencoder, measured, device=flow.device, progress=progress)
    channels, height, width = codec.latent_shape
    flow = flow.with_shape(channels, (height, width))
    flow = Flow(flow.config, codec=codec.for_flow(flow.config)).to(flow.device).eval()
    return Checkpoint(flow, replace(base.config, flow=flow.config, autoencoder=codec.record))
