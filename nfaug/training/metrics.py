"""Metrics of a flow on labelled images, and statistics of their latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.batches import Batches, progress_bar
from nfaug.flows.flow import Flow

from .distributed import Processes, draw_noise, shared_batches

__all__ = ["class_statistics", "evaluate"]


@torch.no_grad()
def evaluate(
    flow: Flow,
    gaussians: ClassGaussians,
    data: Batches,
    *,
    batch_size: int = 256,
    seed: int = 0,
    round_trip: bool = False,
    progress: bool = False,
    processes: Processes | None = None,
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
        processes: Processes to share the batches; each returns the metrics of all images.

    Returns:
        `images`, their number, and
        `bits_per_dim`, under each image's class and dequantisation noise;
        `nf_acc`, the share of images whose class has the highest latent log-likelihood at the
        noiseless encoding (paper, section 5.1), and `nf_acc_top5`; both absent with one gaussian;
        `exact`, the share of images that decode bit for bit, and `wrong_levels`, the number of
        8-bit values that differ.
        A flow on an autoencoder's latents has `latent_bits_per_dim` instead, not comparable with
        bits/dim of pixels, and `mean_level_error` of the whole round trip in grey levels.

    Raises:
        ValueError: If there are no images.
    """
    if not len(data.labels):
        raise ValueError("there are no images to evaluate on")
    frozen, single = flow.freeze(), gaussians.num_classes == 1
    device, codec, total = frozen.device, frozen.codec, len(data.labels)
    generator = torch.Generator(device).manual_seed(seed)
    sums = torch.zeros(6, dtype=torch.float64)  # bits, hits, hits of five, exact, levels, error
    with progress_bar(total, "eval", "image", shown=progress) as bar:
        for shard in shared_batches(data, torch.arange(total), batch_size, processes):
            noise = draw_noise(frozen, shard.total, generator)[shard.part]
            bar.update(shard.total)
            if not shard.weight:
                continue
            images, labels = shard.images.to(device), shard.labels.to(device)
            prepared = codec.prepare(images)
            z, logdet = frozen.encode(prepared, noise)
            nll = -(gaussians.log_prob(z, torch.zeros_like(labels) if single else labels) + logdet)
            sums[0] += float(codec.bits_per_dim(nll).double().sum())
            z = frozen.encode(prepared)[0]
            if not single:
                ranked = gaussians.log_prob(z).topk(min(5, gaussians.num_classes)).indices
                hits = ranked == labels[:, None]
                sums[1] += float(hits[:, 0].sum())
                sums[2] += float(hits.any(1).sum())
            if round_trip:
                decoded = frozen.decode(z)
                levels = (decoded.float() - images.float()).abs().flatten(1)
                sums[3] += float((levels == 0).all(1).sum())
                sums[4] += int(levels.count_nonzero())
                sums[5] += float(levels.mean(1).sum())
    if processes is not None:
        sums = processes.sum(sums.to(processes.float64)).cpu()
    bits, top1, top5, exact, wrong_levels, error = sums.tolist()
    figures: dict[str, Any] = {"images": total, codec.figure: bits / total}
    if not single:
        figures |= {"nf_acc": top1 / total, "nf_acc_top5": top5 / total}
    if round_trip and codec.exact:
        figures |= {"exact": exact / total, "wrong_levels": int(wrong_levels)}
    elif round_trip:
        figures["mean_level_error"] = error / total
    return figures


@torch.no_grad()
def class_statistics(
    flow: Flow,
    data: Batches,
    order: Tensor,
    num_classes: int,
    *,
    batch_size: int,
    generator: torch.Generator,
    processes: Processes,
    progress: bool = False,
) -> ClassStatistics:
    """Statistics of the latents of the images with indices `order`, with dequantisation noise.

    `processes` share the images and combine their statistics with one all-reduce.
    """
    stats = ClassStatistics(num_classes, flow.config.dim, processes.float64)
    frozen = flow.freeze()
    with progress_bar(len(order), "gaussians", "image", shown=progress) as bar:
        for shard in shared_batches(data, order, batch_size, processes):
            noise = draw_noise(frozen, shard.total, generator)[shard.part]
            if shard.weight:
                images = shard.images.to(processes.device)
                stats.update(frozen.encode(images, noise)[0], shard.labels)
            bar.update(shard.total)
    if processes.count > 1:
        stats.all_reduce()
    return stats
