"""The classifiers of a comparison: a small CNN or a timm model, trained or fine-tuned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from nfaug.io.errors import reading
from nfaug.io.text import did_you_mean
from nfaug.run.device import pick_device

from .config import CompareConfig

BATCH, FINE_TUNED_BATCH = 50, 16  # images a step


def default_steps(config: CompareConfig, labelled: int) -> int:
    """150 passes over the labelled images (fine-tuned 10), 800 steps (300) to 2,000.

    From scratch, 500 images need some 1,500 steps until a training without an augmentation ends:
    lab/results/short.
    """
    least, passes, size = 800, 150, BATCH
    if config.pretrained:
        least, passes, size = 300, 10, FINE_TUNED_BATCH
    return min(2000, max(least, passes * labelled // size))


def small_cnn(shape: Sequence[int], classes: int) -> nn.Sequential:
    """A small network: blocks of 3x3 convolution, BatchNorm, 2x2 max pooling and ReLU.

    There are three blocks of 16, 32 and 64 channels, and one more for each doubling of the size
    above 32 pixels; then a global average and a linear layer.

    Args:
        shape: (C, H, W) of the images.
        classes: The number of classes.

    Returns:
        A network from images (B, C, H, W) to logits (B, classes).

    Raises:
        ValueError: The pooling would leave nothing of a side.

    Example:
        >>> from nfaug.compare import small_cnn
        >>> small_cnn((1, 8, 8), classes=3)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    channels, height, width = shape
    doublings = (max(height, width, 32) // 32).bit_length() - 1
    widths = [channels, 16, 32, 64]
    widths += [64] * doublings
    smallest = 2 ** (len(widths) - 1)
    if min(height, width) < smallest:
        raise ValueError(
            f"small-cnn needs at least {smallest} pixels a side; the images have {height} x "
            f"{width}: choose a larger image size (--image-size), or a timm model (--network)"
        )
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.MaxPool2d(2))  # before ReLU: the same values from a quarter of the work
        layers.append(nn.ReLU())
    layers.append(nn.AdaptiveAvgPool2d(1))
    layers.append(nn.Flatten())
    layers.append(nn.Linear(64, classes))
    return nn.Sequential(*layers)


def timm_model(config: CompareConfig, shape: Sequence[int], classes: int) -> Any:
    """A timm model for images (C, H, W), with the weights of `config.weights` if there are any.

    With 0 classes it computes pooled features.

    Raises:
        ValueError: timm has no such model, or the weights are not the model's.
    """
    import timm

    name = config.network
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    if is_of_one_size(name):
        options["img_size"] = tuple(shape[1:])
    if config.weights is None:
        return timm.create_model(name, **options)
    weights = {"file": config.weights}
    with reading(f"{config.weights} as weights of {name}", longest=300):
        return timm.create_model(name, True, pretrained_cfg_overlay=weights, **options)


def is_of_one_size(network: str) -> bool:
    """Whether a timm model, such as a ViT, must be told the size of its images."""
    import timm

    architecture = timm.models.get_pretrained_cfg(network)
    return architecture is not None and bool(architecture.fixed_input_size)


def moments_of(model: Any, channels: int) -> Tensor:
    """Mean and std of a pretrained timm model's images, (2, C, 1, 1), for images in [0, 1]."""
    moments = torch.tensor([model.pretrained_cfg["mean"], model.pretrained_cfg["std"]])
    if channels == 1:
        moments = moments.mean(1, keepdim=True)
    return moments[..., None, None]


class Classifier:
    """A network for uint8 images, and how it is trained.

    From random weights: SGD with Nesterov momentum for small-cnn, AdamW for a timm model. From
    pretrained ones: AdamW, a new head that starts at zero, and BatchNorm with the statistics of the
    pretraining. The learning rate goes through one cycle. A random head, or one that learns much
    faster, would distort the pretrained features in the first steps (arXiv:2202.10054), and
    training on few images could fall to chance.

    Args:
        config: The network, its weights, steps, learning rate and device.
        shape: (C, H, W) of the images.
        classes: The number of classes.
        seed: Decides random weights, and the order of the images.

    Raises:
        ValueError: There is no such network, or it does not take images of this shape.

    Example:
        >>> from nfaug.compare import Classifier, CompareConfig
        >>> images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
        >>> labels = torch.arange(20) % 2
        >>> classifier = Classifier(CompareConfig(steps=3), (1, 8, 8), 2, seed=0)
    """

    def __init__(
        self, config: CompareConfig, shape: Sequence[int], classes: int, seed: int
    ) -> None:
        self.config: CompareConfig = config
        self.seed: int = seed
        self.device: torch.device = pick_device(config.device)
        self.pretrained: bool = config.weights is not None
        # Images are normalized with these; a pretrained model brings its own.
        self.mean: Tensor = torch.tensor(0.5)
        self.std: Tensor = torch.tensor(0.5)
        self.model: Any
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if config.network == "small-cnn":
                self.model = small_cnn(shape, classes)
            else:
                self.model = timm_model(config, shape, classes)
        if self.pretrained:
            self.mean, self.std = moments_of(self.model, shape[0])
            for parameter in self.model.get_classifier().parameters():
                nn.init.zeros_(parameter)
        self.model.to(self.device, memory_format=torch.channels_last)

    def _optimizer(self) -> torch.optim.Optimizer:
        lr = self.config.learning_rate
        parameters = self.model.parameters()
        if self.config.network == "small-cnn":
            return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return torch.optim.AdamW(parameters, lr, weight_decay=0.05, fused=True)

    def train(
        self,
        draw: Callable[[Tensor], tuple[Tensor, Tensor]],
        count: int,
        after_step: Callable[[Tensor], object] | None = None,
    ) -> None:
        """Train on batches that `draw` makes.

        Args:
            draw: Takes some of `count` rows, and returns images and targets: labels, or rows of
                class probabilities. The seed alone decides the rows, in a new order each epoch.
            count: The number of labelled images.
            after_step: Takes the loss of each step.
        """
        optimizer = self._optimizer()
        steps = self.config.steps or default_steps(self.config, count)
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = OneCycleLR(optimizer, peaks, total_steps=steps)
        batch_size = FINE_TUNED_BATCH if self.pretrained else BATCH
        epochs = math.ceil(steps * batch_size / count)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
        self.model.train(not self.pretrained)
        for rows in order[: steps * batch_size].split(batch_size):
            images, targets = draw(rows)
            loss = F.cross_entropy(self._logits(images), targets.to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if after_step is not None:
                after_step(loss.detach())

    def _logits(self, images: Tensor) -> Tensor:
        unit = images.to(self.device, memory_format=torch.channels_last).float().div(255)
        normalized = (unit - self.mean.to(unit)) / self.std.to(unit)
        logits: Tensor = self.model(normalized)
        return logits

    @torch.no_grad()
    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Judge images.

        Args:
            images: (N, C, H, W), uint8.
            labels: (N,), int64.

        Returns:
            Which images get their class, (N,) bool.
        """
        self.model.eval()
        guesses = [self._logits(batch).argmax(1).cpu() for batch in images.split(256)]
        return torch.cat(guesses) == labels
