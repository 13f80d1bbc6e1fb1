"""Do masks from a network's features follow the object? A sheet to look at.

    python benchmarks/masks.py --data DATA --weights FILE --out masks.png

If they did, a variant could take the object of an image and the background of its partner. The mask
is a class activation map (arXiv:1512.04150). Logistic regression on the mean features of
--per-class labelled images of each class gives every position of the last feature map a score for
the image's class, and Otsu's threshold splits the scores. The sheet has 17 images of each set, each
with the mask laid over it and alone.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import write_png
from torchvision.utils import make_grid

from nfaug.data.images import split_per_class, to_tensors
from nfaug.data.open import open_dataset

SIDE = 128  # pixels of the images
READ = 224  # pixels that the network reads
SHOWN = 17  # images of a set


def feature_maps(network: Any, images: Tensor) -> Tensor:
    """The last feature maps (N, C, h, w) of uint8 images."""
    mean = torch.tensor(network.pretrained_cfg["mean"])[:, None, None]
    std = torch.tensor(network.pretrained_cfg["std"])[:, None, None]
    found = []
    with torch.no_grad():
        for batch in images.split(16):
            large = F.interpolate(batch.float() / 255, (READ, READ), mode="bilinear")
            found.append(network.forward_features((large - mean) / std))
    return torch.cat(found)


def scores(maps: Tensor, labels: Tensor) -> Tensor:
    """The score of each position for the class of its image, (N, h, w)."""
    pooled = maps.mean((2, 3))
    mean = pooled.mean(0)
    scale = pooled.std()
    regression = LogisticRegression(max_iter=300).fit((pooled - mean) / scale, labels)
    weights = torch.from_numpy(regression.coef_).float()[labels]
    normalized = (maps - mean[:, None, None]) / scale
    return torch.einsum("nchw,nc->nhw", normalized, weights)


def otsu(values: Tensor) -> float:
    """The threshold with the largest variance between the values below and above it."""
    ordered = np.sort(values.flatten().numpy())
    sums = np.cumsum(ordered)
    below = np.arange(1, len(ordered))
    above = len(ordered) - below
    distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return float(ordered[(below * above * distance**2).argmax()])


def line_of(image: Tensor, score: Tensor) -> list[Tensor]:
    """An image, the same with its mask in red, and the mask."""
    large = F.interpolate(score[None, None], (SIDE, SIDE), mode="bicubic")[0, 0]
    mask = large > otsu(large)
    covered = image.clone()
    covered[0][mask] = 255 - (255 - covered[0][mask]) // 2
    return [image, covered, (mask * 255).to(torch.uint8).expand(3, -1, -1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", default=["clothing128", "blood128", "sign64"])
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    weights = {"file": str(args.weights)}
    network = timm.create_model(args.network, True, pretrained_cfg_overlay=weights).eval()
    cells = []
    for name in args.sets:
        pool = open_dataset(args.data / f"{name}-train.tar", image_size=SIDE)
        few, _ = split_per_class(pool, args.per_class, 0)
        images, labels = to_tensors(few, progress=False)
        found = scores(feature_maps(network, images), labels)
        for row in torch.linspace(0, len(images) - 1, SHOWN).long():
            cells += line_of(images[row], found[row])
    grid = make_grid(torch.stack(cells), nrow=18)
    write_png(grid, str(args.out))


if __name__ == "__main__":
    main()
