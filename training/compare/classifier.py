"""The classifiers of a comparison: a small CNN or a timm model, trained or fine-tuned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

__all__ = ["Classifier", "small_cnn"]

_HEAD = 30  # times the learning rate of the pretrained body, for the new head


def small_cnn(channels: int, classes: int, size: int) -> nn.Sequential:
    """Blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 pooling; global average; a linear layer.

    There are three blocks of 16, 32 and 64 channels, and one more for each doubling of the size
    above 32 pixels.
    """
    more = (max(size, 32) // 32).bit_length() - 1
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((channels, 16, 32, 64, *[64] * more)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class Classifier:
    """A network for uint8 images, and how it is trained.

    From random weights (drawn from `seed`): SGD with Nesterov momentum for small-cnn, AdamW for a
    timm model. From pretrained ones: AdamW with thirty times the rate for the new head, and
    BatchNorm with the statistics of the pretraining. The learning rate goes through one cycle:
    without its warm-up, fine-tuning on few images can fall to chance.
    """

    def __init__(
        self,
        network: str,
        weights: str | None,
        shape: tuple[int, int, int],
        classes: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.pretrained, self.device = network, weights is not None, device
        self.mean, self.std = torch.tensor(0.5), torch.tensor(0.5)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if network == "small-cnn":
                self.model: Any = small_cnn(shape[0], classes, max(shape[1:]))
            else:
                self.model = self._timm(weights, shape, classes)
        self.model.to(device, memory_format=torch.channels_last)

    def _timm(self, weights: str | None, shape: tuple[int, int, int], classes: int) -> Any:
        import timm

        if not timm.is_model(self.network):
            raise ValueError(f"timm has no model {self.network!r}; timm.list_models() has names")
        known = timm.models.get_pretrained_cfg(self.network)
        options: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
        if known is not None and known.fixed_input_size:
            options["img_size"] = shape[1:]
        if weights is not None:
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}
        model: Any = timm.create_model(self.network, **options)
        if self.pretrained:
            for name in ("mean", "std"):
                setattr(self, name, torch.tensor(model.pretrained_cfg[name])[:, None, None])
        return model

    def _optimizer(self, lr: float | None) -> torch.optim.Optimizer:
        model = self.model
        if self.network == "small-cnn":
            return torch.optim.SGD(
                model.parameters(), lr or 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        body = lr or (3e-4 if self.pretrained else 1e-3)
        head = {*model.get_classifier().parameters()} if self.pretrained else set()
        rest = [p for p in model.parameters() if p not in head]
        groups = [{"params": rest, "lr": body}, {"params": [*head], "lr": _HEAD * body}]
        return torch.optim.AdamW(groups, weight_decay=0.05, fused=True)

    def train(
        self,
        draw: Callable[[Tensor], tuple[Tensor, Tensor]],
        count: int,
        *,
        steps: int,
        seed: int,
        lr: float | None = None,
    ) -> None:
        """Train on `draw(rows)`, the images and targets of some of `count` rows.

        Targets are labels, or rows of class probabilities. `seed` alone decides the rows. `lr` is
        the peak learning rate; None for 0.1 (small-cnn), 1e-3 or, fine-tuned, 3e-4.
        """
        optimizer = self._optimizer(lr)
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = OneCycleLR(optimizer, peaks, total_steps=steps)
        rows = _rows(count, torch.Generator().manual_seed(seed))
        batch = 16 if self.pretrained else 50
        self.model.train(not self.pretrained)
        for _ in range(steps):
            chosen = torch.tensor([*itertools.islice(rows, batch)])
            images, targets = draw(chosen)
            loss = F.cross_entropy(self._logits(images), targets.to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _logits(self, images: Tensor) -> Tensor:
        images = images.to(self.device, memory_format=torch.channels_last)
        unit = images.float().div(255)
        scaled = (unit - self.mean.to(unit)) / self.std.to(unit)
        logits: Tensor = self.model(scaled)
        return logits

    @torch.no_grad()
    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which images get their class, (N,) bool."""
        self.model.eval()
        guesses = torch.cat([self._logits(part).argmax(1).cpu() for part in images.split(256)])
        return guesses == labels


def _rows(count: int, generator: torch.Generator) -> Iterator[int]:
    """Rows in a new random order each epoch."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
