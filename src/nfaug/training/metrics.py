"""Metrics of a flow on labelled images, and statistics of their latents."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import LabelledBatches
from nfaug.flows.flow import Flow
from nfaug.io.progress import progress_bar
from nfaug.run.device import float64_device
from nfaug.run.ranks import Ranks

from .distributed import draw_noise, shared_batches


@dataclass
class _Sums:
    """Sums over images. `evaluate` reports their means, and `wrong_levels` as it is."""

    bits_per_dim: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    exact: float = 0.0
    wrong_levels: float = 0.0
    level_error: float = 0.0


@torch.no_grad()
def evaluate(
    flow: Flow,
    gaussians: ClassGaussians,
    data: LabelledBatches,
    *,
    batch_size: int = 256,
    seed: int = 0,
    round_trip: bool = False,
    progress: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Measure bits/dim, NF-Acc and, with `round_trip`, exactness.

    Args:
        flow: The flow.
        gaussians: Its class gaussians.
        data: Labelled images.
        batch_size: Images per batch.
        seed: Seed of the dequantisation noise.
        round_trip: Also decode every image's latent.
        progress: Show a bar.
        ranks: Ranks to share the batches; each returns the metrics of all images.

    Returns:
        `images`, their number, and
        `bits_per_dim`, under each image's class and dequantisation noise;
        `nf_acc`, the share of images whose class has the highest latent log-likelihood at the
        noiseless encoding (paper, section 5.1), and `nf_acc_top5`; both absent with one Gaussian;
        `exact`, the share of images that decode bit for bit, and `wrong_levels`, the number of
        8-bit values that differ.
        A flow on an autoencoder's latents has `latent_bits_per_dim` instead, not comparable with
        bits/dim of pixels, and `mean_level_error` of the whole round trip in gray levels.

    Raises:
        ValueError: If there are no images.
    """
    if not len(data.targets):
        raise ValueError("there are no images to evaluate on")
    frozen = flow.freeze()
    device = frozen.device
    codec = frozen.codec
    total = len(data.targets)
    single = gaussians.num_classes == 1
    generator = torch.Generator(device).manual_seed(seed)
    sums = _Sums()
    with progress_bar(total, "eval", "image", shown=progress) as bar:
        for shard in shared_batches(data, torch.arange(total), batch_size, ranks):
            noise = draw_noise(frozen, shard.total, generator)[shard.part]
            if not shard.weight:
                bar.update(shard.total)
                continue
            images = shard.images.to(device)
            labels = shard.labels.to(device)
            prepared = codec.prepare(images)
            z, logdet = frozen.encode(prepared, noise)
            log_prob = gaussians.log_prob(z, torch.zeros_like(labels) if single else labels)
            nll = -(log_prob + logdet)
            sums.bits_per_dim += float(codec.bits_per_dim(nll).double().sum())
            z, _ = frozen.encode(prepared)  # without noise
            if not single:
                guesses = gaussians.log_prob(z).topk(min(5, gaussians.num_classes)).indices
                hits = guesses == labels[:, None]
                sums.top1 += float(hits[:, 0].sum())
                sums.top5 += float(hits.any(1).sum())
            if round_trip:
                decoded = frozen.decode(z)
                errors = (decoded.float() - images.float()).abs().flatten(1)
                sums.exact += float((errors == 0).all(1).sum())
                sums.wrong_levels += int(errors.count_nonzero())
                sums.level_error += float(errors.mean(1).sum())
            bar.update(shard.total)
    if ranks is not None:
        shared = torch.tensor(
            astuple(sums), dtype=torch.float64, device=float64_device(ranks.device)
        )
        sums = _Sums(*ranks.sum(shared).tolist())
    metrics: dict[str, Any] = {"images": total, codec.figure: sums.bits_per_dim / total}
    if not single:
        metrics["nf_acc"] = sums.top1 / total
        metrics["nf_acc_top5"] = sums.top5 / total
    if round_trip and codec.exact:
        metrics["exact"] = sums.exact / total
        metrics["wrong_levels"] = int(sums.wrong_levels)
    elif round_trip:
        metrics["mean_level_error"] = sums.level_error / total
    return metrics


@torch.no_grad()
def class_statistics(
    flow: Flow,
    data: LabelledBatches,
    order: Tensor,
    num_classes: int,
    *,
    batch_size: int,
    generator: torch.Generator,
    ranks: Ranks,
    progress: bool = False,
) -> ClassStatistics:
    """Statistics of the latents of the images with indices `order`, with dequantisation noise.

    `ranks` share the images and combine their statistics with one all-reduce.
    """
    statistics = ClassStatistics(num_classes, flow.config.dim, float64_device(ranks.device))
    frozen = flow.freeze()
    with progress_bar(len(order), "gaussians", "image", shown=progress) as bar:
        for shard in shared_batches(data, order, batch_size, ranks):
            noise = draw_noise(frozen, shard.total, generator)[shard.part]
            if shard.weight:
                images = shard.images.to(ranks.device)
                z, _ = frozen.encode(images, noise)
                statistics.update(z, shard.labels)
            bar.update(shard.total)
    if ranks.count > 1:
        statistics.all_reduce()
    return statistics
