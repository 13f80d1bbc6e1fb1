"""Picture grids of variants and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tools.nfa import Counted, TensorImages, images_of

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, sample_images
from nfaug.pictures.preview import picture_grid, preview_grid


def cells(picture: np.ndarray, rows: int, columns: int, size: int) -> np.ndarray:
    """The images of a grid, cut out from its lower right: (rows, columns, size, size)."""
    step = size + 2
    part = picture[-rows * step :, -columns * step :, 0]
    return part.reshape(rows, step, columns, step)[:, :size, :, :size].transpose(0, 2, 1, 3)


def test_rows_of_a_preview(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    picture = preview_grid(tiny_checkpoint, tiny_images, variants=3)
    assert picture.mode == "RGB"
    shown = cells(np.asarray(picture), 3, 5, 64)[:, :, ::8, ::8]
    for label in range(3):
        original, decoded, *variants = shown[label]
        mine = tiny_images.images[tiny_images.targets == label, 0].numpy()
        assert (mine == original).all((1, 2)).any(), "an image of this class"
        assert (original == decoded).all()
        assert sum((variant != original).any() for variant in variants) >= 1
        assert (variants[0] != variants[1]).any()
    part = preview_grid(tiny_checkpoint, tiny_images, variants=0, max_classes=1)
    assert (picture.height - 18, part.height - 18) == (3 * 66, 66)


@pytest.mark.parametrize(("memory", "partners"), [(False, "auto"), (True, "batch")])
def test_partners_of_the_data(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, memory: bool, partners: str
) -> None:
    given = nfaug.fit(tiny_checkpoint, tiny_images, rank=4, memory=memory, progress=False)
    picture = preview_grid(given, tiny_images, variants=2, partners=partners)
    shown = cells(np.asarray(picture), 3, 4, 64)
    assert all((variant != row[0]).any() for row in shown for variant in row[2:])


@pytest.mark.parametrize(("channels", "size"), [(1, (5, 12)), (2, (8, 8)), (3, (70, 30))])
def test_any_channels_sizes_and_names(channels: int, size: tuple[int, int]) -> None:
    images = images_of(torch.arange(6), channels=channels, size=size).unflatten(0, (2, 3))
    titles = ["one", "two", "three"]
    picture = picture_grid(images, titles, ["café", "\U0001f408 a\x1bb"])
    assert picture.width > 3 * size[1]
    assert picture.height > 2 * size[0]
    same = picture_grid(images, titles, ["café", "? a?b"])
    assert (np.asarray(picture) == np.asarray(same)).all(), "what the font lacks is a question mark"


def test_samples(tiny_checkpoint: Checkpoint) -> None:
    flow, gaussians = tiny_checkpoint.flow, tiny_checkpoint.gaussians
    assert gaussians is not None
    images = sample_images(flow, gaussians, torch.arange(12) % 3, temperature=0.0)
    assert (images.shape, images.dtype) == ((12, 1, 8, 8), torch.uint8)
    assert torch.equal(images[:3], images[3:6]), "at temperature 0 a class's mean"
    assert not torch.equal(images[0], images[1])


def test_a_preview_encodes_its_images_twice_whatever_the_number_of_variants(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, counted: Counted
) -> None:
    """Once for the column of decoded images, once for all variants."""
    preview_grid(tiny_checkpoint, tiny_images, variants=5)
    assert counted.encoded == [3, 3]


def test_other_classes_are_an_error(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    """They were drawn under the wrong names, along the axes of other classes."""
    turned = TensorImages(tiny_images.images, tiny_images.targets, tiny_images.classes[::-1])
    with pytest.raises(ValueError, match="class"):
        preview_grid(tiny_checkpoint, turned)
