"""Images of three classes, and banks of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from nfaug.bank import Bank, make_bank
from tools.nfa import NAMES, checkpoint, images_of

# Reads of 30 pictures before variants are made: labels, the first, headers, the hash of all.
READS_BEFORE = 3 + 1 + 30 + 30


class Pictures(Dataset[tuple[Any, int]]):
    """PIL images and labels, with the attributes of a torchvision data set."""

    def __init__(
        self, count: int = 30, *, seed: int = 0, channels: int = 3, size: tuple[int, int] = (8, 8)
    ) -> None:
        self.targets = [i * 3 // count for i in range(count)]
        self.classes = list(NAMES)
        self.images = images_of(torch.tensor(self.targets), seed=seed, channels=channels, size=size)
        self.transform: Any = None
        self.reads = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.reads += 1
        pixels = self.images[index].permute(1, 2, 0).numpy()
        image: Any = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return (self.transform(image) if self.transform else image), self.targets[index]


def make(path: Path, dataset: Any = None, **settings: Any) -> Bank:
    settings = {"variants": 3, "batch_size": 8, "progress": False, **settings}
    return make_bank(checkpoint(), Pictures() if dataset is None else dataset, path, **settings)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def save_pictures(folder: Path, count: int = 30, *, seed: int = 0, side: int = 8) -> Path:
    """PNG files 5.png, 6.png, ... in a folder for each class."""
    data = Pictures(count, seed=seed)
    for index, label in enumerate(data.targets):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        image = data[index][0].resize((side, side))
        image.save(folder / NAMES[label] / f"{5 + index % (count // 3)}.png")
    return folder
