"""Colour images that come with scikit-learn: crops of its two photographs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nfaug.augment.pixels import resize_levels
from nfaug.data.images import TensorImages

__all__ = ["photographs"]

_SIDES = (120, 260)  # of a crop, in pixels; the photographs have 427 x 640


def photographs(size: int, count: int = 150) -> TensorImages:
    """`count` random crops of each photograph at `size` pixels; classes "temple" and "flower"."""
    from sklearn.datasets import load_sample_images

    generator = torch.Generator().manual_seed(0)
    crops: list[Tensor] = []
    for photograph in load_sample_images().images:
        image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
        for _ in range(count):
            side = int(torch.randint(*_SIDES, (), generator=generator))
            top, left = (
                int(torch.randint(room - side, (), generator=generator)) for room in image.shape[1:]
            )
            crop = image[None, :, top : top + side, left : left + side]
            crops.append(resize_levels(crop, (size, size))[0])
    labels = torch.arange(2).repeat_interleave(count)
    return TensorImages(torch.stack(crops), labels, ("temple", "flower"))
