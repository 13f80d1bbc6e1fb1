"""The networks of the study and their training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfaug.training.evaluation.classifier import small_cnn

from .bases import apply_base, base_parts
from .data import Images
from .isda import ISDA

__all__ = [
    "NETWORKS",
    "Draw",
    "Network",
    "accuracy",
    "new_classifier",
    "prepared",
    "train_classifier",
]

# (rows (B,), generator, share of the steps that are done) -> uint8 images (B, C, H, W)
Draw = Callable[[Tensor, torch.Generator, float], Tensor]
WIDTHS = (16, 32, 64)


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


# (images, targets, share of the steps that are done) -> loss
BatchLoss = Callable[[Tensor, Tensor, float], Tensor]


def batch_loss(model: nn.Module, base: str) -> BatchLoss:
    """The loss that a base asks for: cross-entropy, ISDA, or timm's loss for several views."""
    options = dict(base_parts(base))
    if "isda" in options:
        features, head = _head(model)
        isda = ISDA(head, float(options["isda"][0]))

        def isda_loss(images: Tensor, targets: Tensor, done: float) -> Tensor:
            with _bf16():
                hidden = features(prepared(images))
            return isda(hidden, targets, done)

        return isda_loss
    criterion: nn.Module = nn.CrossEntropyLoss()
    if "consistency" in options:
        from timm.loss import JsdCrossEntropy

        criterion = JsdCrossEntropy(2, float(options["consistency"][0]), smoothing=0)

    def loss(images: Tensor, targets: Tensor, done: float) -> Tensor:
        with _bf16():
            found: Tensor = criterion(model(prepared(images)), targets)
        return found

    return loss


def _bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)  # half the time on CPUs that know the type


def train_classifier(
    model: nn.Module,
    draw: Draw,
    base: str,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    network: str = "small-cnn",
    images: Tensor | None = None,
) -> None:
    """SGD with Nesterov momentum and a one-cycle schedule, on batches of the arm and then `base`.

    All arms of a seed see the same rows in the same order: the order, the arm and the base have
    separate generators. With "consistency" in the base, the labelled `images` themselves come
    before the batch of the arm, as a first view.
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
    loss_of = batch_loss(model, base)
    two_views = "consistency" in dict(base_parts(base))
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


def prepared(images: Tensor) -> Tensor:
    """uint8 images scaled to [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, held: Images) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    guesses = torch.cat([model(prepared(part)).argmax(1) for part in held.images.split(500)])
    return 100 * float((guesses == held.labels).float().mean())
