"""A classifier trained on all labels: it judges variants, and no arm of the study uses it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.data.images import LabelledImages, to_tensors

from .classifiers import prepared
from .data import flip_and_crop

__all__ = ["Judge", "trained_judge"]

_BATCH, _LR, _MARGIN = 128, 0.1, 3


class _Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Judge(nn.Module):
    """A ResNet of four blocks, 32 to 128 channels; `features` is its pooled last layer (B, 128)."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _Block(width, width, 1),
            _Block(width, 2 * width, 2),
            _Block(2 * width, 4 * width, 2),
            _Block(4 * width, 4 * width, 1),
        )
        self.head = nn.Linear(4 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 128)."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def trained_judge(data: LabelledImages, file: Path, minutes: float) -> Judge:
    """The judge stored in `file`, or a new one trained on all of `data` for some minutes.

    SGD with Nesterov momentum, flips and shifts by up to three pixels; the learning rate falls
    linearly with time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        judge = Judge(data.channels, len(data.classes)).to(memory_format=torch.channels_last)
    if file.exists():
        judge.load_state_dict(load_file(file))
        return judge.eval()
    images, labels = to_tensors(data, progress=False)
    draws = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(judge.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    order = torch.empty(0, dtype=torch.long)
    started, done = time.monotonic(), 0.0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _LR * min(1, done / 0.05) * (1 - done)
        if len(order) < _BATCH:
            order = torch.cat([order, torch.randperm(len(images), generator=draws)])
        rows, order = order[:_BATCH], order[_BATCH:]
        batch = prepared(flip_and_crop(images[rows], draws, margin=_MARGIN))
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(judge(batch), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in judge.state_dict().items()}, file)
    return judge.eval()
