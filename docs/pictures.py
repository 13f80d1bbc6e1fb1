"""Images and figures of the gallery."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nfaug.training import open_dataset

__all__ = ["clothing", "show"]

# The folder of Debian's and Ubuntu's package dataset-fashion-mnist.
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def clothing() -> tuple[Tensor, Tensor]:
    """Four test images of Fashion-MNIST and their labels."""
    if not FASHION.is_dir():
        raise FileNotFoundError(
            f"{FASHION} does not exist; apt-get install dataset-fashion-mnist, or set "
            "FASHION_MNIST to a folder with its four files"
        )
    dataset = open_dataset(str(FASHION), split="test")
    labels = torch.tensor([0, 1, 7, 9])  # T-shirt, trouser, sneaker, ankle boot
    rows = [int((dataset.targets == label).nonzero()[3]) for label in labels]
    return torch.stack([dataset[row][0] for row in rows]), labels


def show(columns: dict[str, Tensor]) -> None:
    """Draw batches of images as the columns of a grid."""
    rows = len(next(iter(columns.values())))
    figure, axes = plt.subplots(
        rows, len(columns), figsize=(1.05 * len(columns), 1.05 * rows), squeeze=False
    )
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title)
        for row, image in enumerate(images):
            picture = image.expand(3, -1, -1).permute(1, 2, 0)
            axes[row, column].imshow(picture.numpy(), interpolation="nearest")
            axes[row, column].axis("off")
