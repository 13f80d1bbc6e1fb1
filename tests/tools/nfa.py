"""A tiny flow with a fitted PCA, and images of its classes, for tests of augmentation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from nfaug.classes.pca import ClasswisePCA
from nfaug.classes.pca_fit import fit_class
from nfaug.classes.pca_parts import PCAParts
from nfaug.data.images import Images
from nfaug.data.source import ArraySource
from nfaug.data.view import View
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig

CLASSES = 3
NAMES = ("cat", "dog", "eel")
SIZE = (8, 8)


@dataclasses.dataclass
class Config:
    classes: tuple[str, ...]


@dataclasses.dataclass
class Parts:
    """The parts of a checkpoint that `NFAugment` uses."""

    flow: Flow
    pca: ClasswisePCA | None
    config: Config
    source: str = ""


class TensorImages(Images):
    """Images in memory: uint8 (N, C, H, W), and labels of classes that may be empty."""

    def __init__(
        self, images: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> None:
        names = list(classes or map(str, range(int(labels.max()) + 1)))
        super().__init__(
            ArraySource(where="the images", classes=names, targets=labels.long(), images=images),
            View(images.shape[1], (images.shape[2], images.shape[3]), resize=False),
            torch.arange(len(images)),
        )
        self.images = images


def images_of(
    labels: Tensor, *, seed: int = 0, channels: int = 3, size: tuple[int, int] = SIZE
) -> Tensor:
    """Uint8 images: a stripe pattern per class with random phase and brightness."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    y = torch.arange(height)[:, None] * (8 / height)
    x = torch.arange(width)[None, :] * (8 / width)
    angle = labels[:, None, None] * 1.1
    phase = torch.rand(len(labels), 1, 1, generator=generator)
    level = 90 + 60 * torch.rand(len(labels), 1, 1, generator=generator)
    plane = level + 50 * torch.sin(x * torch.cos(angle) + y * torch.sin(angle) + phase)
    noise = 6 * torch.randn(len(labels), channels, height, width, generator=generator)
    return (plane[:, None] + noise).clamp(0, 255).to(torch.uint8)


def write_images(root: Path, side: int, **counts: int) -> Path:
    """Write `counts` images of each class into root/SPLIT/CLASS/, and return root."""
    for split, count in counts.items():
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            images = images_of(torch.full((count,), label), seed=label, size=(side, side))
            for number, image in enumerate(images):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(root / split / name / f"{number}.png")
    return root


def batch_of(
    count: int, *, seed: int = 0, channels: int = 3, size: tuple[int, int] = SIZE
) -> tuple[Tensor, Tensor]:
    """Uint8 images and labels."""
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
    return images_of(labels, seed=seed + 1, channels=channels, size=size), labels


@functools.cache
def tiny_flow(channels: int = 3) -> Flow:
    """A flow on 8 x 8 images whose zero-initialized weights are perturbed."""
    generator = torch.Generator().manual_seed(0)
    config = FlowConfig(
        channels=channels,
        image_size=SIZE,
        backbone=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = Flow(config)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return flow.eval()


@functools.cache
def _fitted(channels: int, memory: bool) -> ClasswisePCA:
    flow = tiny_flow(channels)
    latents = []
    with torch.no_grad():
        for label in range(CLASSES):
            images = images_of(torch.full((40,), label), seed=100 + label, channels=channels)
            latents.append(flow.encode(images)[0].flatten(1))
    return fit_pca(latents, rank=8, memory=memory)


def fit_pca(latents: Iterable[Tensor], *, rank: int, memory: bool = True) -> ClasswisePCA:
    """The PCA of the latents of each class."""
    fits = [fit_class(rows, rank, label=label) for label, rows in enumerate(latents)]
    images = sum(len(fit.memory) for fit in fits) if memory else 0
    parts = PCAParts(len(fits), max(len(fit.axes) for fit in fits), len(fits[0].mean), images)
    for fit in fits:
        parts.add(fit)
    return parts.joined()


def checkpoint(*, channels: int = 3, memory: bool = True, **changes: Any) -> Parts:
    """A flow with PCA axes, and a memory if `memory`."""
    parts = Parts(tiny_flow(channels), _fitted(channels, memory), Config(NAMES))
    return dataclasses.replace(parts, **changes)


class Counted(NamedTuple):
    """How many images a flow encoded and decoded."""

    encoded: list[int]
    decoded: list[int]
