"""The networks of the study and their training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nfaug.training.evaluation.classifier import small_cnn

from .bases import Part, apply_base, base_parts, loss_parts
from .bf16 import bf16
from .data import Images
from .isda import ISDA

__all__ = [
    "NETWORKS",
    "BatchDraw",
    "Network",
    "accuracy",
    "class_accuracy",
    "network_of",
    "new_classifier",
    "predicted_right",
    "prepared",
    "train_classifier",
]

# (rows (B,), generator, share of the steps that are done) -> uint8 images (B, C, H, W)
BatchDraw = Callable[[Tensor, torch.Generator, float], Tensor]
WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class Network:
    """A classifier and its optimiser settings.

    Attributes:
        build: (channels, classes) -> module.
        lr: Peak learning rate of the one-cycle schedule.
        weight_decay: Weight decay, of all parameters.
        batch: Images per step.
        adamw: AdamW in the place of SGD with Nesterov momentum.
    """

    build: Callable[[int, int], nn.Module]
    lr: float = 0.1
    weight_decay: float = 5e-4
    batch: int = 64
    adamw: bool = False


def resnet18(channels: int, classes: int, *, small: bool = True) -> nn.Module:
    """timm's ResNet-18; `small` is its stem for 32-pixel images: a 3x3 convolution, no pooling.

    See He et al. 2016, arXiv:1512.03385, section 4.2.
    """
    import timm

    model = timm.create_model("resnet18", num_classes=classes, in_chans=channels)
    if small:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def photo_cnn(channels: int, classes: int) -> nn.Sequential:
    """A 7x7 convolution of stride 4, then the small CNN, four times as wide, for 96 pixels."""
    narrowed = [
        nn.Conv2d(channels, 32, 7, stride=4, padding=3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
    ]
    return nn.Sequential(*narrowed, *small_cnn(32, classes, (64, 128, 256)))


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
    "small-cnn": Network(lambda channels, classes: small_cnn(channels, classes, WIDTHS)),
    "photo-cnn": Network(photo_cnn),
    "resnet18": Network(resnet18, lr=0.05, weight_decay=5e-3),
    "small-swin": Network(small_swin, lr=1e-3, weight_decay=0.05, adamw=True),
}


def network_of(text: str) -> Network:
    """The network "NAME", or "NAME:LR:WEIGHT_DECAY:BATCH" with other settings than its own.

    Raises:
        ValueError: The name is unknown, or a setting is not a number in its range.
    """
    name, *numbers = text.split(":")
    wrong = ValueError(
        f"the network must be one of {', '.join(NETWORKS)}, or NAME:LR:WEIGHT_DECAY:BATCH with "
        f"LR > 0, WEIGHT_DECAY >= 0 and BATCH >= 1; got {text!r}"
    )
    if name not in NETWORKS or len(numbers) > 3:
        raise wrong
    known = NETWORKS[name]
    lr, weight_decay, batch = (*numbers, *(None,) * (3 - len(numbers)))
    try:
        found = replace(
            known,
            lr=float(lr or known.lr),
            weight_decay=float(weight_decay or known.weight_decay),
            batch=int(batch or known.batch),
        )
    except ValueError as error:
        raise wrong from error
    if not (0 < found.lr < math.inf and 0 <= found.weight_decay < math.inf and found.batch >= 1):
        raise wrong
    return found


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
        model = network_of(network).build(channels, classes)
    return model.to(memory_format=torch.channels_last)  # a third faster on a CPU


# (images, targets, share of the steps that are done) -> loss
BatchLoss = Callable[[Tensor, Tensor, float], Tensor]


def batch_loss(model: nn.Module, part: Part | None) -> BatchLoss:
    """Cross-entropy, or the loss that a part of a base asks for: ISDA, or timm's for views."""
    if part is not None and part.name == "isda":
        features, head = _head(model)
        isda = ISDA(head, float(part.options[0]))

        def isda_loss(images: Tensor, targets: Tensor, done: float) -> Tensor:
            with bf16():
                hidden = features(prepared(images))
            return isda(hidden, targets, done)

        return isda_loss
    criterion: nn.Module = nn.CrossEntropyLoss()
    if part is not None and part.name == "consistency":
        from timm.loss import JsdCrossEntropy

        criterion = JsdCrossEntropy(2, float(part.options[0]), smoothing=0)

    def loss(images: Tensor, targets: Tensor, done: float) -> Tensor:
        with bf16():
            logits = model(prepared(images))
        found: Tensor = criterion(logits.float(), targets)
        return found

    return loss


def train_classifier(
    model: nn.Module,
    draw: BatchDraw,
    base: str,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    network: str = "small-cnn",
    images: Tensor | None = None,
) -> None:
    """Train on batches of the arm and then `base`, with PyTorch's one-cycle schedule.

    The schedule also moves the momentum, between 0.85 and 0.95. All arms of a seed see the same
    rows in the same order: the order, the arm and the base have separate generators. With
    "consistency" in the base, the labelled `images` themselves come before the batch of the arm,
    as a first view.
    """
    config = network_of(network)
    order, arm, after = (torch.Generator().manual_seed(3 * seed + n) for n in range(3))
    classes = int(labels.max()) + 1
    optimizer = _optimizer(model, config)
    loss_part = next(iter(loss_parts(base_parts(base))), None)
    loss_of = batch_loss(model, loss_part)
    two_views = loss_part is not None and loss_part.name == "consistency"
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
    model.train()
    rows = torch.empty(0, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        for step in range(steps):
            while len(rows) < config.batch:
                rows = torch.cat([rows, torch.randperm(len(labels), generator=order)])
            now, rows = rows[: config.batch], rows[config.batch :]
            batch, known = draw(now, arm, step / steps), labels[now]
            if two_views:
                assert images is not None, "the first view is the labelled images"
                batch, known = torch.cat([images[now], batch]), known.repeat(2)
            batch, targets = apply_base(batch, known, base, classes, after)
            loss = loss_of(batch, targets, step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def _optimizer(model: nn.Module, config: Network) -> torch.optim.Optimizer:
    settings = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.adamw:
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **settings)


def prepared(images: Tensor) -> Tensor:
    """uint8 images scaled to [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predicted_right(model: nn.Module, held: Images) -> Tensor:
    """Which images get their class, (N,) bool."""
    model.eval()
    guesses = torch.cat([model(prepared(part)).argmax(1) for part in held.images.split(500)])
    return guesses == held.labels


def class_accuracy(right: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in per cent, averaged over classes: some data have rare ones."""
    return 100 * float(
        torch.stack([right[labels == y].float().mean() for y in labels.unique()]).mean()
    )


def accuracy(model: nn.Module, held: Images) -> float:
    """`class_accuracy` of a model."""
    return class_accuracy(predicted_right(model, held), held.labels)
