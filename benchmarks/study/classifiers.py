"""The networks of the study and their training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from .arms import Draw
from .data import Images, flip_and_crop

__all__ = ["NETWORKS", "Network", "accuracy", "new_classifier", "prepared", "train_classifier"]

WIDTHS = (16, 32, 64)
MARGIN = 2  # pixels; the largest shift of a crop


def small_cnn(channels: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions with BatchNorm, ReLU and pooling; global average; a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((channels, *WIDTHS), WIDTHS, strict=False):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Network:
    """A classifier and its optimiser settings.

    Attributes:
        build: (channels, classes) -> module.
        batch: Images per step.
        lr: Peak learning rate of the one-cycle schedule.
        weight_decay: Of SGD.
    """

    build: Callable[[int, int], nn.Module]
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4


NETWORKS = {"small-cnn": Network(small_cnn)}


def new_classifier(channels: int, classes: int, seed: int, network: str = "small-cnn") -> nn.Module:
    """The network of this name, with initial weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = NETWORKS[network].build(channels, classes)
    return model.to(memory_format=torch.channels_last)  # a third faster on a CPU


def train_classifier(
    model: nn.Module,
    draw: Draw,
    base: str,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    network: str = "small-cnn",
) -> None:
    """SGD with Nesterov momentum and a one-cycle schedule, on batches of the arm and then `base`.

    All arms of a seed see the same rows in the same order: the order, the arm and the base have
    separate generators.
    """
    config = NETWORKS[network]
    order, arm, after = (torch.Generator().manual_seed(3 * seed + n) for n in range(3))
    classes = int(labels.max()) + 1
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=0.9,
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
    model.train()
    rows = torch.empty(0, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        for step in range(steps):
            while len(rows) < config.batch:
                rows = torch.cat([rows, torch.randperm(len(labels), generator=order)])
            now, rows = rows[: config.batch], rows[config.batch :]
            images, targets = _after(
                draw(now, arm, step / steps), labels[now], base, classes, after
            )
            with torch.autocast("cpu", torch.bfloat16):  # half the time on CPUs that know the type
                loss = F.cross_entropy(model(prepared(images)), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def _after(
    images: Tensor, labels: Tensor, base: str, classes: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Apply the base: flip and crop, then RandAugment, then MixUp or CutMix."""
    parts = base.split("+")
    if unknown := set(parts) - {"none", "flip", "crop", "randaugment", "mixup", "cutmix"}:
        raise ValueError(f"base {base!r} has unknown parts {sorted(unknown)}")
    if ("flip" in parts) != ("crop" in parts):
        raise ValueError(f"base {base!r} has only one of flip and crop; use flip+crop")
    if "flip" in parts:
        images = flip_and_crop(images, draws, margin=MARGIN)
    if "randaugment" in parts:
        augment = v2.RandAugment()
        images = torch.stack([augment(image) for image in images])
    if "mixup" in parts or "cutmix" in parts:
        mix = v2.CutMix(num_classes=classes) if "cutmix" in parts else v2.MixUp(num_classes=classes)
        return mix(images.float(), labels)
    return images, labels


def prepared(images: Tensor) -> Tensor:
    """uint8 images scaled to [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, held: Images) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    guesses = torch.cat([model(prepared(part)).argmax(1) for part in held.images.split(500)])
    return 100 * float((guesses == held.labels).float().mean())
