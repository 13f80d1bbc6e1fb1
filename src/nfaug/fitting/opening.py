"""Open the flow and the images of a fit."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

from ..checkpoint.autoencoder import AutoencoderSource
from ..checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from ..checkpoint.manifest import read_manifest
from ..checkpoint.resolve import resolve
from ..data.images import LabelledImages
from ..data.open import open_dataset
from ..data.torch_datasets import wrap_dataset
from ..flows.flow import Flow
from ..io.numbers import as_size, check_side

_LARGE = 512**2  # pixels of an image above which a size that nobody chose is a warning
_SIDE = 128  # largest default size of images that differ in size, for a flow of any size


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
    convert: bool = True,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    progress: bool = True,
    **reading: Any,
) -> LabelledImages:
    """Open a dataset at the size and with the channels that a flow takes.

    The arguments are those of `fit`, and `convert` is that of `open_dataset`. With a path or a
    name, `reading` may hold other arguments of `open_dataset`.

    Raises:
        ValueError: `image_size` or `channels` is given for a flow of others, or see
            `open_dataset`.
    """
    size = None if image_size is None else check_side(as_size(image_size))
    if not flow.shape_free:
        check_channels(flow, channels)
        if size not in (None, flow.codec.image_size):
            raise ValueError(
                f"image_size={image_size} is for flows of any size, such as builtin:pixels; this "
                f"flow takes images of {flow.codec.image_size}, and others are resized to that"
            )
        size = flow.codec.image_size
        channels = flow.codec.channels
    if isinstance(data, LabelledImages) and channels in (None, data.channels):
        if not data.has_one_size:
            return data.at(size or common_size(data, _SIDE, progress=progress))
        if size in (None, data.image_size):
            if size is None:
                _warn_of_size(data)
            return data
    if isinstance(data, str | os.PathLike):
        images = open_dataset(
            data,
            image_size=size,
            channels=channels,
            convert=convert,
            progress=progress,
            **reading,
        )
    else:
        images = wrap_dataset(
            data,
            image_size=size,
            channels=channels,
            convert=convert,
            mean=mean,
            std=std,
            progress=progress,
        )
    if size is None:
        _warn_of_size(images)
        images = images.at(common_size(images, _SIDE, progress=progress))
    return images


def _warn_of_size(images: LabelledImages) -> None:
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
        f"{_SIDE}, takes less memory and time",
        stacklevel=4,
    )


def check_channels(flow: Flow, channels: int | None) -> None:
    """Raise ValueError unless `channels` is None or the number of channels that a flow takes."""
    if channels not in (None, flow.codec.channels):
        raise ValueError(
            f"channels={channels}, but this checkpoint takes images of {flow.codec.channels}: "
            f"leave it out, or fit one of any shape, such as builtin:pixels, with "
            f"channels={channels} (nfaug fit --channels {channels})"
        )


def common_size(images: LabelledImages, most: int, *, progress: bool = False) -> tuple[int, int]:
    """The stored size of the images; if they differ, a square, with a warning.

    The side of the square is `most` or, if that is smaller, the median shorter side. `progress`
    shows a bar.
    """
    if images.has_stored_size:
        return images.image_size
    sizes = list(images.stored_sizes(progress=progress).values())
    if len(set(sizes)) == 1:
        return sizes[0]
    shorter_sides = sorted(min(size) for size in sizes)
    side = min(most, shorter_sides[len(sizes) // 2])
    warnings.warn(
        f"the images differ in size; they are resized and cropped to {side} x {side} pixels. "
        "image_size (--image-size) chooses another size",
        stacklevel=4,
    )
    return side, side
