"""Training on the latents of a frozen autoencoder: their scale, and their cache."""

from __future__ import annotations

import math

import torch

from nfaug.data.batches import Batches, MemoryBatches, progress_bar
from nfaug.data.images import LabelledImages
from nfaug.flows.codec import Codec
from nfaug.flows.flow import FlowConfig
from nfaug.flows.latent_codec import LatentCodec, measure_codec

from ..config import TrainConfig

__all__ = ["flow_shape", "open_codec", "with_latents"]

_BATCH = 64  # images encoded at a time


def open_codec(
    dataset: LabelledImages, config: TrainConfig, device: torch.device
) -> LatentCodec | None:
    """Open the autoencoder of the settings and measure its latents' scale; None for pixels.

    The scale is measured on `latents.images` random images.

    Raises:
        ValueError, OSError, ModuleNotFoundError: See `nfaug.flows.latent_codec.measure_codec`.
    """
    if config.autoencoder is None:
        return None
    choice = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(dataset), generator=choice)[: config.latents.images]
    images = torch.stack([dataset.image(row) for row in rows.tolist()])
    return measure_codec(config.autoencoder, images, noise=config.latents.noise, device=device)


def flow_shape(
    dataset: LabelledImages, config: TrainConfig, codec: LatentCodec | None
) -> tuple[FlowConfig, Codec | None]:
    """The configuration of the flow for a data set's images or their latents, and its codec."""
    if codec is None:
        return FlowConfig(dataset.channels, dataset.image_size, config.flow), None
    channels, height, width = codec.latent_shape
    shape = FlowConfig(channels, (height, width), config.flow)
    return shape, codec.for_flow(shape)


def with_latents(
    data: Batches,
    codec: LatentCodec | None,
    config: TrainConfig,
    device: torch.device,
    *,
    mirrored: bool,
    progress: bool,
) -> Batches:
    """Replace images by their latents, computed once; without a codec, return `data` unchanged.

    The autoencoder costs an order of magnitude more than the flow, so encoding at each step would
    dominate a run. Latents (N, views, C, H, W) are kept as float16, whose rounding is below the
    noise. With `mirrored` and `augmentation.hflip` the second view is the mirror image's latents,
    which differ from the mirrored latents; `FlowAugmentation` draws one of the views.

    Raises:
        ValueError: If an augmentation cannot apply to cached latents, or they exceed
            `dataset.memory_gib`.
    """
    if codec is None or not config.latents.cache:
        return data
    augmentation = config.augmentation
    if augmentation.pad_crop or augmentation.rotation or augmentation.color_jitter:
        raise ValueError(
            "cached latents cannot be shifted, rotated or recoloured: set augmentation.pad_crop, "
            "augmentation.rotation and augmentation.color_jitter to 0, or latents.cache to false, "
            "which runs the autoencoder at each step"
        )
    count, views = len(data.labels), 1 + (mirrored and augmentation.hflip)
    size = 2 * count * views * math.prod(codec.latent_shape)
    if size > config.dataset.memory_gib * 2**30:
        raise ValueError(
            f"the latents of {count} images take {size / 2**30:.1f} GiB of memory; raise "
            f"dataset.memory_gib (now {config.dataset.memory_gib:g}), or set latents.cache to "
            "false, which runs the autoencoder at each step"
        )
    latents = torch.empty((count, views, *codec.latent_shape), dtype=torch.float16)
    done = 0
    with progress_bar(count, "latents", "image", shown=progress) as bar:
        for images, _ in data.iterate(torch.arange(count), _BATCH):
            batch = images.to(device)
            part = slice(done, done + len(batch))
            for view in range(views):
                encoded = codec.prepare(batch.flip(-1) if view else batch)
                latents[part, view] = encoded.to("cpu", torch.float16)
            done = part.stop
            bar.update(len(batch))
    return MemoryBatches(latents, data.labels)
