"""Images and figures of the gallery."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from nfaug.data.images import TensorImages
from nfaug.training import open_dataset

__all__ = ["clothing", "photographs", "show"]

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


def photographs(size: int, count: int = 150) -> TensorImages:
    """Random crops of scikit-learn's two photographs at `size` pixels: a temple and a flower."""
    generator = torch.Generator().manual_seed(0)
    crops = []
    for photograph in load_sample_images().images:
        image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1).float()
        for _ in range(count):
            side = int(torch.randint(120, 260, (), generator=generator))
            top, left = (
                int(torch.randint(room - side, (), generator=generator)) for room in image.shape[1:]
            )
            crop = image[None, :, top : top + side, left : left + side]
            small = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
            crops.append(small[0].round().clamp(0, 255).byte())
    labels = torch.arange(2).repeat_interleave(count)
    return TensorImages(torch.stack(crops), labels, ("temple", "flower"))


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
