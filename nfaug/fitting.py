"""Fitting an existing flow to the classes of a data set: no training, one pass over the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checkpoint.checkpoint import Checkpoint, CheckpointConfig
from .data.batches import Batches, open_batches, progress_bar
from .flows.flow import Flow
from .gaussians.fixed_point.config import FixedPointConfig
from .gaussians.gaussians import ClassGaussians
from .gaussians.priors import GradientDescentConfig, choose_prior
from .gaussians.statistics import ClassStatistics
from .pca.fit import ClasswisePCA, fit_pca

__all__ = [
    "check_class_sizes",
    "check_images",
    "encode_with_noise",
    "fit",
    "fit_classes",
    "image_bits_per_dim",
    "latent_nll",
    "with_shape_of",
]


def encode_with_noise(
    flow: Flow, images: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Latents and log|det| of uint8 images under uniform dequantisation noise.

    Statistics are taken on these: a pixel that is the same in every image (a black border) has no
    variance without noise, and dividing by it would end the fixed point at its first step.
    """
    shape = (len(images), *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=images.device)
    return flow.encode(images, noise)


def fit(
    flow: Flow | Checkpoint,
    dataset: Dataset[Any],
    *,
    gaussians: str | FixedPointConfig | GradientDescentConfig = "data",
    rank: int = 64,
    max_per_class: int = 1000,
    memory: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> Checkpoint:
    """Class gaussians, PCA axes and the partner memory of a data set under an existing flow.

    Args:
        flow: A flow, or a checkpoint whose flow is taken.
        dataset: Any data set of (image, label); see `nfaug.training.wrap_dataset` for what an image
            may be. Labels are 0..K-1.
        gaussians: "data" for the means and variances of each class's latents (the
            maximum-likelihood solution), "fpi", "gradient", or the settings of one of these two.
        rank: PCA axes per class; a class of N images has at most N - 1.
        max_per_class: At most this many images of a class are encoded, chosen by `seed`.
        memory: Keep every encoded image's PCA coefficients, from which `NFAugment` draws partners.
        batch_size: Images that are encoded at a time.
        seed: Seed of that choice and of the dequantisation noise.
        progress: Show bars.

    Returns:
        A checkpoint with the same flow. Its figures are those of these classes; nothing of the
        flow changes.

    Raises:
        ValueError: the images do not have the flow's shape (a flow that is `shape_free` takes
            any), a class has fewer than two, or a
            setting is out of range.
        FixedPointDivergence: see `nfaug.gaussians.fixed_point.solver.solve`.
    """
    if rank < 1 or max_per_class < 2:
        raise ValueError(
            f"rank must be at least 1 and max_per_class 2; got {rank} and {max_per_class}"
        )
    chosen = choose_prior(gaussians)
    base = flow if isinstance(flow, Checkpoint) else _bare(flow)
    from .data.open import wrap_dataset  # the readers belong to the training room

    images = wrap_dataset(dataset)
    base = with_shape_of(base, images)
    check_images(base.flow, images)
    check_class_sizes(images.targets, images.classes)
    stats, pca = fit_classes(
        base.flow,
        open_batches(images, progress=progress),
        images.classes,
        rank=rank,
        max_per_class=max_per_class,
        memory=memory,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    counts, means, variances = stats.finalize(class_names=images.classes)
    means, variances, record = chosen.entry.solve(means, variances, chosen.settings, None)
    config = replace(
        base.config,
        class_names=tuple(images.classes),
        preprocessing={**base.config.preprocessing, **images.preprocessing},
        gaussians={"kind": chosen.kind, **record, "fitted": True, "images": int(counts.sum())},
        metrics={},
    )
    return Checkpoint(base.flow, config, ClassGaussians(means, variances, counts), pca)


def _bare(flow: Flow) -> Checkpoint:
    return Checkpoint(flow, CheckpointConfig(flow.config, autoencoder=flow.codec.record))


def with_shape_of(checkpoint: Checkpoint, images: Any) -> Checkpoint:
    """Return the checkpoint with a flow for the images' shape, if its flow serves every shape.

    Other checkpoints are returned as they are. Class statistics are dropped if the shape changes.
    """
    flow = checkpoint.flow
    shape = (images.channels, tuple(images.image_size))
    if not flow.shape_free or shape == (flow.config.channels, flow.config.image_size):
        return checkpoint
    flow = flow.with_shape(*shape)
    return Checkpoint(flow, replace(checkpoint.config, flow=flow.config))


def check_images(flow: Flow, images: Any) -> None:
    """Refuse a data set whose images are not of the flow's shape.

    Raises:
        ValueError: says both shapes.
    """
    expected = (flow.codec.channels, *flow.codec.image_size)
    found = (images.channels, *images.image_size)
    if expected != found:
        raise ValueError(
            f"the flow takes images of shape {expected} (channels, height, width); the data have "
            f"{found}: open them with channels={expected[0]}, image_size={expected[1:]}"
        )


def check_class_sizes(labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse classes of fewer than two images: they have neither a variance nor a partner.

    Raises:
        ValueError: names them.
    """
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    few = [f"{name!r} ({n})" for name, n in zip(class_names, counts, strict=True) if n < 2]
    if few:
        raise ValueError(
            f"a class needs at least two images, and {len(few)} of {len(counts)} have fewer: "
            f"{', '.join(few[:5])}{', ...' if len(few) > 5 else ''}; add images or leave them out"
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
    progress: bool = True,
) -> tuple[ClassStatistics, ClasswisePCA]:
    """Statistics (under noise) and PCA (as images are encoded at run time).

    Class by class, so that the latents of one class are in memory at a time. Every class has at
    least two images (`check_class_sizes`).
    """
    flow = flow.freeze()
    device = flow.device
    noise = torch.Generator(device).manual_seed(seed)
    choice = torch.Generator().manual_seed(seed)
    stats = ClassStatistics(len(class_names), flow.config.dim)
    order = []
    for y in range(len(class_names)):
        rows = (data.labels == y).nonzero().flatten()
        chosen = torch.randperm(len(rows), generator=choice)[:max_per_class].sort().values
        order.append(rows[chosen])
    bar = progress_bar(sum(map(len, order)), "fit", "image", shown=progress)

    def latents() -> Iterator[Tensor]:
        for y, rows in enumerate(order):
            parts = []
            for images, _ in data.iterate(rows, batch_size):
                batch = flow.codec.prepare(images.to(device))
                noisy = encode_with_noise(flow, batch, noise)[0]
                stats.update(noisy, torch.full((len(batch),), y, device=device))
                parts.append(flow.encode(batch)[0].flatten(1))
                bar.update(len(batch))
            yield torch.cat(parts)

    with bar:
        pca = fit_pca(latents(), rank=rank, memory=memory, generator=choice)
    return stats, pca


def latent_nll(
    flow: Flow,
    gaussians: ClassGaussians,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """-log p(v | y) of Eq. 2 under dequantisation noise, in nats, shape (B,)."""
    z, logdet = encode_with_noise(flow, images, generator)
    return -(gaussians.log_prob(z, labels) + logdet)


def image_bits_per_dim(flow: Flow, nll: Tensor) -> Tensor:
    """Bits per dimension of the images that a user sees, padding accounted for.

    Of a flow in an autoencoder's latent space, bits per dimension of those latents.
    """
    return flow.codec.bits_per_dim(nll)
