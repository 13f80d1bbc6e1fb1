"""A small classifier and its training loop, for the demo and the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.data.images import progress_bar

__all__ = ["Draw", "accuracy", "small_cnn", "train_classifier"]

# Rows of the training images (B,) -> a uint8 batch (B, C, H, W), which may be augmented.
Draw = Callable[[Tensor], Tensor]


def small_cnn(channels: int, classes: int, widths: tuple[int, ...] = (16, 32, 64)) -> nn.Sequential:
    """3x3 convolutions with BatchNorm, ReLU and 2x2 pooling; global average; a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, *widths)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers)


def train_classifier(
    model: nn.Module,
    draw: Draw,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int = 50,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    seed: int = 0,
    progress: str | None = None,
) -> nn.Module:
    """Train with SGD (Nesterov momentum 0.9) and a one-cycle schedule.

    Args:
        model: The model, trained in place.
        draw: Returns the batch for rows of the training images.
        labels: Labels of all training images (N,).
        steps: Optimiser steps.
        batch_size: Images per step.
        lr: Peak learning rate.
        weight_decay: Weight decay.
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
                order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
            rows, order = order[:batch_size], order[batch_size:]
            loss = F.cross_entropy(model(_scaled(draw(rows))), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Share of uint8 images (N, C, H, W) whose largest logit is at their label (N,)."""
    model.eval()
    guesses = torch.cat([model(_scaled(batch)).argmax(1) for batch in images.split(batch_size)])
    return float((guesses == labels).float().mean())


def _scaled(images: Tensor) -> Tensor:
    """uint8 images scaled to [-1, 1]."""
    return images.float().div_(127.5).sub_(1)
