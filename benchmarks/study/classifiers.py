"""The networks of the study and their training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arms import Draw
from .bases import apply_base, base_parts
from .data import Images
from .isda import ISDA

__all__ = ["NETWORKS", "Network", "accuracy", "new_classifier", "prepared", "train_classifier"]

WIDTHS = (16, 32, 64)


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


def resnet18(channels: int, classes: int) -> nn.Module:
    """timm's ResNet-18 for small images: a 3x3 convolution with stride 1 first, and no pooling."""
    import timm

    model = timm.create_model("resnet18", num_classes=classes, in_chans=channels)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def small_swin(channels: int, classes: int) -> nn.Module:
    """timm's Swin for 32-pixel images: patches of 2, windows of 4, three stages of 2 blocks."""
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=32,
        patch_size=2,
        in_chans=channels,
        num_classes=classes,
        embed_dim=48,
        depths=(2, 2, 2),
        num_heads=(3, 6, 12),
        window_size=4,
        drop_path_rate=0.1,
    )


NETWORKS = {
    "small-cnn": Network(small_cnn),
    "resnet18": Network(resnet18, lr=0.05, weight_decay=5e-3),
    "small-swin": Network(small_swin, lr=0.05, weight_decay=1e-3),
}


def _head(model: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.Linear]:
    """The features before the last layer (B, A), and that layer."""
    if isinstance(model, nn.Sequential):
        return model[:-1], model[-1]
    return (
        lambda x: model.forward_head(model.forward_features(x), pre_logits=True),
        model.get_classifier(),
    )


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
    options = dict(base_parts(base)).get("isda")
    features, head = _head(model)
    isda = None if options is None else ISDA(head, float(options[0]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
    model.train()
    rows = torch.empty(0, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        for step in range(steps):
            while len(rows) < config.batch:
                rows = torch.cat([rows, torch.randperm(len(labels), generator=order)])
            now, rows = rows[: config.batch], rows[config.batch :]
            images, targets = apply_base(
                draw(now, arm, step / steps), labels[now], base, classes, after
            )
            with torch.autocast("cpu", torch.bfloat16):  # half the time on CPUs that know the type
                if isda is None:
                    loss = F.cross_entropy(model(prepared(images)), targets)
                else:
                    hidden = features(prepared(images))
            if isda is not None:
                loss = isda(hidden, targets, step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def prepared(images: Tensor) -> Tensor:
    """uint8 images scaled to [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, held: Images) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    guesses = torch.cat([model(prepared(part)).argmax(1) for part in held.images.split(500)])
    return 100 * float((guesses == held.labels).float().mean())
