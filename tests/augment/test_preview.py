from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from nfa_tools import NAMES, Counted, images_of

from nfaug.augment.preview import picture_grid, preview_grid, sample_images
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import TensorImages


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


def test_without_a_memory(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    """Partners come from the data."""
    assert tiny_checkpoint.pca is not None
    bare = dataclasses.replace(tiny_checkpoint, pca=tiny_checkpoint.pca.without_memory())
    shown = cells(np.asarray(preview_grid(bare, tiny_images, variants=2)), 3, 4, 64)
    assert all((variant != row[0]).any() for row in shown for variant in row[2:])


@pytest.mark.parametrize("partners", ["batch", "both"])
def test_partners_of_the_batch(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, partners: str
) -> None:
    """Partners come from the data although the checkpoint has a memory."""
    picture = preview_grid(tiny_checkpoint, tiny_images, variants=2, partners=partners)
    shown = cells(np.asarray(picture), 3, 4, 64)
    assert all((row[2:] != row[0]).any() for row in shown)
    if partners == "batch":
        assert all((variant != row[0]).any() for row in shown for variant in row[2:])


def test_the_seed_decides(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (
        np.asarray(preview_grid(tiny_checkpoint, tiny_images, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (one == same).all()
    assert (one != other).any()


def test_fewer_classes(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    whole = preview_grid(tiny_checkpoint, tiny_images, variants=0)
    part = preview_grid(tiny_checkpoint, tiny_images, variants=0, classes=1)
    assert (whole.height - 18, part.height - 18) == (3 * 66, 66)


def test_bad_input(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    with pytest.raises(ValueError, match="nfaug fit"):
        preview_grid(dataclasses.replace(tiny_checkpoint, pca=None), tiny_images)
    with pytest.raises(ValueError, match="0 and 2"):
        preview_grid(tiny_checkpoint, tiny_images, classes=0, variants=2)
    some = tiny_images.subset((tiny_images.targets != 1).nonzero().flatten())
    with pytest.raises(ValueError, match="'dog'"):
        preview_grid(tiny_checkpoint, some)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (70, 30)])
def test_any_channels_and_sizes(channels: int, size: tuple[int, int]) -> None:
    images = images_of(torch.arange(6), channels=channels, size=size).unflatten(0, (2, 3))
    names = ["a class\nwith a very long name", "ü"]
    picture = picture_grid(images, ["one", "two", "three"], names)
    corner = np.asarray(picture)[-2 - 1, -2 - 1]
    assert picture.width > 3 * size[1]
    assert picture.height > 2 * size[0]
    assert corner.shape == (3,)


def test_samples(tiny_checkpoint: Checkpoint) -> None:
    assert tiny_checkpoint.gaussians is not None
    labels = torch.arange(12) % 3
    images = sample_images(
        tiny_checkpoint.flow,
        tiny_checkpoint.gaussians,
        labels,
        temperature=0.0,
        batch_size=5,
        generator=torch.Generator().manual_seed(0),
    )
    assert images.shape == (12, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:3], images[3:6]), "at temperature 0 a class's mean"
    assert not torch.equal(images[0], images[1])
    assert len(NAMES) == 3


@pytest.mark.parametrize("matplotlib", [True, False])
def test_labels_in_any_script(monkeypatch: pytest.MonkeyPatch, matplotlib: bool) -> None:
    """Characters that the font lacks are question marks."""
    if not matplotlib:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    images = images_of(torch.arange(4), size=(16, 16))[:, None]
    names = ["café", "猫", "🐈 cat", "a\x1bb"]
    written = np.asarray(picture_grid(images, ["image"], names))
    plain = ["café" if matplotlib else "cafe", "?", "? cat", "a?b"]
    assert (written == np.asarray(picture_grid(images, ["image"], plain))).all()
    assert (written != np.asarray(picture_grid(images, ["image"], ["cafe", *plain[1:]]))).any() == (
        matplotlib
    )


def test_the_reconstruction_has_no_rounding_error(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far images, whose decoded column float32 could spoil, and images at a training size."""
    monkeypatch.setattr("nfaug.augment.preview.FAR", 0.0)
    monkeypatch.setattr(type(tiny_checkpoint.flow), "decode", lambda flow, z: torch.zeros_like(z))
    shown = cells(np.asarray(preview_grid(tiny_checkpoint, tiny_images, variants=0)), 3, 2, 64)
    assert (shown[:, 0] == shown[:, 1]).all()


def test_a_preview_encodes_its_images_twice_whatever_the_number_of_variants(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, counted: Counted
) -> None:
    """Once for the column of decoded images, once for all variants."""
    preview_grid(tiny_checkpoint, tiny_images, variants=5)
    assert counted.encoded == [3, 3]
