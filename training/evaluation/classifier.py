"""A small classifier trained on tensors, for the demo and the study."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.images import progress_bar

__all__ = ["accuracy", "resnet18", "train_classifier"]

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def resnet18(channels: int, num_classes: int, *, seed: int, small: bool = True) -> nn.Module:
    """timm's ResNet-18 with random weights from `seed`.

    `small` replaces the stem by the one for 32-pixel images: a 3x3 convolution of stride 1 and no
    pooling (He et al. 2016, arXiv:1512.03385, section 4.2).
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        # Seed the CPU's generator only: torch.manual_seed also reseeds the GPUs', which stays.
        torch.default_generator.manual_seed(seed)
        model = timm.create_model("resnet18", num_classes=num_classes, in_chans=channels)
        if small:
            model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = nn.Identity()
    return model


def _prepare(images: Tensor, size: int | None) -> Tensor:
    """Scale uint8 to [-1, 1], and resize to `size` pixels if given."""
    floating = images.float().div_(127.5).sub_(1)
    if size is None or size == images.shape[-1]:
        return floating
    return F.interpolate(floating, size=(size, size), mode="bilinear", align_corners=False)


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int = 50,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    smoothing: float = 0.0,
    augment: Augment | None = None,
    size: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> nn.Module:
    """Train with SGD (momentum 0.9) and a one-cycle schedule.

    Args:
        model: The model, trained in place.
        images: uint8 images (N, C, H, W).
        labels: Labels (N,).
        steps: Optimiser steps.
        batch_size: Images per step.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        smoothing: Label smoothing.
        augment: Called on every uint8 batch and its labels before normalisation.
        size: Resize images to this many pixels.
        seed: Seed of the order of the images.
        progress: Title of a progress bar, or None.

    Returns:
        The model.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    model.train()
    order = torch.empty(0, dtype=torch.long)
    with progress_bar(steps, progress or "", "step", shown=progress is not None) as bar:
        for _ in range(steps):
            while len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(images), generator=generator)])
            rows, order = order[:batch_size], order[batch_size:]
            batch, targets = images[rows], labels[rows]
            if augment is not None:
                batch, targets = augment(batch, targets)
            loss = F.cross_entropy(model(_prepare(batch, size)), targets, label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    return model


@torch.no_grad()
def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    size: int | None = None,
    batch_size: int = 256,
) -> float:
    """Share of uint8 images (N, C, H, W) whose largest logit is at their label (N,)."""
    model.eval()
    hits = 0
    for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        hits += int((model(_prepare(batch, size)).argmax(1) == targets).sum())
    return hits / len(images)
