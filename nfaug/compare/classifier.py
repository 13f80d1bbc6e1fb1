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

from nfaug.io.device import pick_device
from nfaug.io.manifest import reading

from .settings import CompareSettings

__all__ = ["Classifier", "small_cnn"]


def small_cnn(shape: Sequence[int], classes: int) -> nn.Sequential:
    """Blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 pooling; global average; a linear layer.

    There are three blocks of 16, 32 and 64 channels, and one more for each doubling of the size
    above 32 pixels. Images have the shape (C, H, W).

    Raises:
        ValueError: The pooling would leave nothing of a side.
    """
    more = (max(*shape[1:], 32) // 32).bit_length() - 1
    widths = (shape[0], 16, 32, 64, *[64] * more)
    least = 2 ** (len(widths) - 1)
    if min(shape[1:]) < least:
        raise ValueError(
            f"small-cnn needs at least {least} pixels a side; the images have {shape[1]} x "
            f"{shape[2]}: choose a larger image size (--image-size), or a timm model (--network)"
        )
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class Classifier:
    """A network for uint8 images of a shape (C, H, W), and how it is trained.

    From random weights (drawn from `seed`): SGD with Nesterov momentum for small-cnn, AdamW for a
    timm model. From pretrained ones: AdamW with thirty times the rate for the new head, and
    BatchNorm with the statistics of the pretraining. The learning rate goes through one cycle:
    without its warm-up, fine-tuning on few images can fall to chance.
    """

    def __init__(
        self, settings: CompareSettings, shape: Sequence[int], classes: int, seed: int
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, pick_device(settings.device)
        self.pretrained = settings.weights is not None
        self.mean = self.std = torch.tensor(0.5)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            make: Any = small_cnn if settings.network == "small-cnn" else self._timm
            self.model: Any = make(shape, classes)
        self.model.to(self.device, memory_format=torch.channels_last)

    def _timm(self, shape: Sequence[int], classes: int) -> Any:
        import timm

        name = self.settings.network
        if not timm.is_model(name):
            raise ValueError(f"timm has no model {name!r}; timm.list_models() has names")
        known = timm.models.get_pretrained_cfg(name)
        options: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
        if known is not None and known.fixed_input_size:
            options["img_size"] = tuple(shape[1:])
        if not self.pretrained:
            return timm.create_model(name, **options)
        file = {"file": self.settings.weights}
        with reading(f"{self.settings.weights} as weights of {name}", longest=300):
            model: Any = timm.create_model(name, True, pretrained_cfg_overlay=file, **options)
        figures = torch.tensor([model.pretrained_cfg[each] for each in ("mean", "std")])
        figures = figures.mean(1, keepdim=True) if shape[0] == 1 else figures
        self.mean, self.std = figures[..., None, None]
        return model

    def _optimizer(self) -> torch.optim.Optimizer:
        model, lr = self.model, self.settings.lr
        if self.settings.network == "small-cnn":
            return torch.optim.SGD(
                model.parameters(), lr or 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        body = lr or (3e-4 if self.pretrained else 1e-3)
        head = {*model.get_classifier().parameters()} if self.pretrained else set()
        rest = [p for p in model.parameters() if p not in head]
        groups = [{"params": rest, "lr": body}, {"params": [*head], "lr": 30 * body}]
        return torch.optim.AdamW(groups, weight_decay=0.05, fused=True)

    def train(self, draw: Callable[[Tensor], tuple[Tensor, Tensor]], count: int) -> None:
        """Train on `draw(rows)`, the images and targets of some of `count` rows.

        Targets are labels, or rows of class probabilities. The seed alone decides the rows, in a
        new order each epoch.
        """
        optimizer, steps = self._optimizer(), self.settings.steps or 1
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = OneCycleLR(optimizer, peaks, total_steps=steps)
        generator, batch = torch.Generator().manual_seed(self.seed), 16 if self.pretrained else 50
        epochs = math.ceil(steps * batch / count)
        rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
        self.model.train(not self.pretrained)
        for chosen in rows[: steps * batch].split(batch):
            images, targets = draw(chosen)
            loss = F.cross_entropy(self._logits(images), targets.to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _logits(self, images: Tensor) -> Tensor:
        unit = images.to(self.device, memory_format=torch.channels_last).float().div(255)
        logits: Tensor = self.model((unit - self.mean.to(unit)) / self.std.to(unit))
        return logits

    @torch.no_grad()
    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which images get their class, (N,) bool."""
        self.model.eval()
        guesses = torch.cat([self._logits(part).argmax(1).cpu() for part in images.split(256)])
        return guesses == labels
