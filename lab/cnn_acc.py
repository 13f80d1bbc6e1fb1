"""CNN-Acc in the small: how well a classifier of a flow's images does on real ones.

    python lab/cnn_acc.py

prints how many images a second the classifier trains on, on one core, and that of the authors.

The authors' classifier is ResNet-18 with a 3x3 first convolution of stride 1 and without pooling,
11.2 million weights. Here it is a quarter as wide, 0.70 million weights, and makes half of their 30
passes. The rest is theirs: as many images of the flow as it was trained on, drawn once, SGD in
batches of 100 with a momentum of 0.9 and a weight decay of 5e-4, one cycle up to a learning rate of
0.1, flips and crops. Of their temperatures of the draws, 1.2 down to 0.7, here is 1.
"""

from __future__ import annotations

import argparse
import time

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.data.augmentation import FlowAugmentation

WIDTH, AUTHORS_WIDTH = 16, 64  # channels of the first stage
BATCH, PEAK, SHIFT = 100, 0.1, 4  # images, learning rate, pixels
PASSES = 15


def network(channels: int, classes: int, width: int = WIDTH) -> nn.Sequential:
    """A ResNet-18 for small images (B, channels, H, W), whose first stage has `width` channels."""
    layers = [_convolution(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [BasicBlock(width, width), BasicBlock(width, width)]
    for _ in range(3):
        halved = nn.Sequential(_convolution(width, 2 * width, 1, 2), nn.BatchNorm2d(2 * width))
        layers.append(BasicBlock(width, 2 * width, 2, halved))
        layers.append(BasicBlock(2 * width, 2 * width))
        width *= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*layers)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def cnn_accuracy(
    images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], *, passes: int, seed: int
) -> float:
    """The accuracy of a `network` that is trained on images of a flow (paper, section 5.3).

    Args:
        images: (N, C, H, W), uint8, drawn from the flow.
        labels: (N,), their classes.
        test: Real images and their classes.
        passes: How many times the network sees each image.
        seed: Of the first weights, the order, the flips and the crops.

    Returns:
        A share in [0, 1].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(images.shape[1], int(labels.max()) + 1)
    train(model, images, labels, passes=passes, seed=seed)
    model.eval()
    with torch.no_grad():
        guesses = [model(part / 127.5 - 1).argmax(dim=1) for part in test[0].split(256)]
    return float((torch.cat(guesses) == test[1]).double().mean())


def train(model: nn.Module, images: Tensor, labels: Tensor, *, passes: int, seed: int) -> None:
    """Train a network on uint8 images in whole batches."""
    size = min(BATCH, len(images))
    each = len(images) // size  # steps of a pass
    optimizer = torch.optim.SGD(model.parameters(), PEAK, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=passes * each, cycle_momentum=False
    )
    moves = FlowAugmentation(hflip=True, pad_crop=SHIFT)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(passes):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: each * size].split(size):
            batch = moves.apply(images[rows], moves.draw(size, generator))
            loss = F.cross_entropy(model(batch / 127.5 - 1), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    for width, batches in ((WIDTH, 10), (AUTHORS_WIDTH, 1)):
        images = torch.zeros((batches * BATCH, 3, 32, 32), dtype=torch.uint8)
        labels = torch.zeros(len(images), dtype=torch.int64)
        model = network(3, 10, width)
        started = time.process_time()
        train(model, images, labels, passes=1, seed=0)
        rate = len(images) / (time.process_time() - started)
        print(f"{width} channels: {rate:.0f} images a second")


if __name__ == "__main__":
    main()
