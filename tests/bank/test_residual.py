"""Residual banks: the stored change, its error in grey levels, and where it is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_tools import Pictures
from nfa_tools import CLASSES, NAMES, checkpoint, images_of
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder

import nfaug
from nfaug.augment.box import centre_box
from nfaug.augment.detail import add_change
from nfaug.augment.transform import NFAugment
from nfaug.bank import Bank, BankDataset, make_bank
from nfaug.bank.residual import add_residual, quantize
from nfaug.data.decode import decode_image
from nfaug.data.open import open_dataset
from nfaug.data.preprocess import resize_levels
from nfaug.data.torch_datasets import wrap_dataset
from nfaug.run.seeds import SharedGenerator, seed_of

LABELS = torch.arange(30) % CLASSES
SMALL = images_of(LABELS)
LARGE = F.interpolate(SMALL, scale_factor=5, mode="nearest")  # 40 x 40


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    path = tmp_path_factory.mktemp("residual") / "bank"
    data = TensorDataset(LARGE, LABELS)
    return make_bank(
        checkpoint(), data, path, variants=2, batch_size=8, residual=True, progress=False
    )


def online(variant: int) -> Tensor:
    """The images that NFA makes of the large images with the draws of the bank."""
    nfa = NFAugment(checkpoint(), p=1.0)
    parts = []
    for start in range(0, 30, 8):
        generator = SharedGenerator().manual_seed(seed_of(0, variant, start))
        rows = slice(start, start + 8)
        parts += nfa.variants(LARGE[rows].float() / 255, LABELS[rows], [generator])
    return torch.cat(parts) * 255


def test_files_are_small_and_add_up_to_the_images_of_online_nfa(bank: Bank) -> None:
    assert bank.variants is None
    assert bank.residuals.shape == (30, 2, 8, 8, 3)
    assert isinstance(bank.residuals, np.memmap)
    assert bank.manifest.shape == (3, 8, 8)
    size = sum((bank.path / name).stat().st_size for name in ("residuals.npy", "steps.npy"))
    assert bank.manifest.nbytes == 30 * 2 * (3 * 8 * 8 + 2)
    assert 0 < size - bank.manifest.nbytes < 1024
    assert bank.applied.mean() > 0.8
    errors = []
    for number in range(2):
        expected = online(number)
        for index in range(30):
            pixels = LARGE[index].permute(1, 2, 0).numpy()
            found = bank.variant(index, number, pixels)
            errors.append(np.abs(found - expected[index].permute(1, 2, 0).numpy()))
    assert np.max(errors) < 2.5, "grey levels; the bank rounds the image at the flow's size"
    assert np.mean(errors) < 0.35, "rounding alone gives 0.25"
    with pytest.raises(ValueError, match="pixels="):
        bank.variant(0, 0)


def test_a_flow_that_amplifies_rounding_gives_the_images_of_online_nfa(tmp_path: Path) -> None:
    """`builtin:rgb32` turns half a grey level of its input into tens of its output."""
    labels = torch.arange(18) % CLASSES
    large = images_of(labels, size=(64, 64))
    data = TensorDataset(large, labels)
    fitted = nfaug.fit("builtin:rgb32", wrap_dataset(data, image_size=32), rank=4, progress=False)
    made = make_bank(
        fitted, data, tmp_path / "bank", variants=1, batch_size=18, residual=True, progress=False
    )
    generator = SharedGenerator().manual_seed(seed_of(0, 0, 0))
    (expected,) = NFAugment(fitted, p=1.0).variants(large.float() / 255, labels, [generator])
    assert made.applied.any()
    for index, image in enumerate(large):
        found = made.variant(index, 0, image.permute(1, 2, 0).numpy())
        error = np.abs(found - 255 * expected[index].permute(1, 2, 0).numpy())
        assert error.max() < 6
        assert error.mean() < 1


@pytest.mark.parametrize("largest", [0.0, 0.3, 20.0, 100.0, 255.0])
@pytest.mark.parametrize("size", [(8, 8), (37, 90), (5, 6)])
def test_images_are_those_of_add_change_but_for_rounding(
    largest: float, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.rand(4, 3, 8, 8, generator=generator) * 2 - 1
    change = change / change.abs().flatten(1).amax(1)[:, None, None, None] * largest
    q, steps = quantize(change)
    assert bool((steps.double() / 128 <= largest / 127 + 1 / 128).all())
    stored = q * (steps / 128)[:, None, None, None]
    assert bool(((stored - change).abs() <= (steps / 256)[:, None, None, None] + 1e-4).all())
    box = centre_box(size, (8, 8))
    left, top, right, bottom = box
    coarse = torch.randint(256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    fine = 40 * torch.rand(4, 3, *size, generator=generator) - 20
    pixels = (resize_levels(coarse, size) + fine).clamp(0, 255).to(torch.uint8)
    low = resize_levels(pixels[..., top:bottom, left:right], (8, 8))
    expected = 255 * add_change(pixels / 255, stored / 255, low / 255, box)
    rounding = 0.5 if size == (8, 8) else 3.5  # of the image; of its detail and the share as well
    for row in range(4):
        image, multiples = (x[row].permute(1, 2, 0).numpy() for x in (pixels, q))
        found = add_residual(image, multiples, int(steps[row]), box)
        error = np.abs(found - expected[row].permute(1, 2, 0).numpy()).max()
        assert error <= steps[row] / 128 + rounding + 1e-3


def test_images_of_other_sizes_are_resized_as_a_fit_does(tmp_path: Path) -> None:
    class Mixed(Pictures):
        """Images of several sizes."""

        def __getitem__(self, index: int) -> tuple[Any, int]:
            size = (20 + index % 3, 20 + index % 7)
            pixels = F.interpolate(SMALL[index][None], size, mode="bilinear")[0]
            return Image.fromarray(pixels.permute(1, 2, 0).numpy()), int(LABELS[index])

    data = Mixed()
    data.targets = LABELS.tolist()
    options: dict[str, Any] = {"variants": 1, "residual": True, "progress": False}
    made = make_bank(checkpoint(), data, tmp_path / "stored", **options)
    resized = wrap_dataset(data, image_size=8)
    expected = make_bank(checkpoint(), resized, tmp_path / "resized", **options)
    assert (made.residuals == expected.residuals).all()
    with pytest.raises(ValueError, match="--image-size"):
        make_bank(checkpoint(), data, tmp_path / "full", progress=False)
    assert BankDataset(data, expected, p=1.0)[4][0].size == (24, 21)

    for index, (image, label) in enumerate(data):
        (tmp_path / "files" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "files" / NAMES[label] / f"{index:03}.png")
    opened = open_dataset(tmp_path / "files")
    from_files = make_bank(checkpoint(), opened, tmp_path / "opened", **options)
    expected = make_bank(checkpoint(), opened.at(8), tmp_path / "opened-8", **options)
    assert (from_files.residuals == expected.residuals).all()
    with pytest.raises(ValueError, match=r"differ in size: .* and .*image_size=64"):
        nfaug.pictures.preview_grid(checkpoint(), opened)
    with pytest.raises(ValueError, match="may differ in size"):
        opened.subset(torch.tensor([0])).image_size  # noqa: B018


def test_outside_the_box_the_change_fades() -> None:
    residual = np.full((8, 8, 1), 100, np.int8)
    pixels = np.full((16, 40, 1), 50, np.uint8)
    assert centre_box((16, 40), (8, 8)) == (12, 0, 28, 16)
    assert centre_box((375, 500), (32, 32)) == (58, 0, 430, 375), "5 of 43 columns are cropped"
    changed = add_residual(pixels, residual, 128, (12, 0, 28, 16))[8, :, 0]
    assert changed[12:28].tolist() == [150] * 16
    assert changed[:10].tolist() == [50] * 10
    assert changed[11] == changed[28] == 100, "half of the change, one of two pixels away"


def test_photographs_with_an_exif_orientation_change_upright(tmp_path: Path) -> None:
    """The bank is made upright from files; torchvision yields the stored pixels and the tag."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    images = F.interpolate(SMALL[:12], (40, 60), mode="bilinear")
    for index, (pixels, label) in enumerate(zip(images, LABELS, strict=False)):
        folder = tmp_path / "images" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        stored = Image.fromarray(pixels.rot90(1, (1, 2)).permute(1, 2, 0).numpy())
        stored.save(folder / f"{index:02}.jpg", exif=exif, quality=95)
    options: dict[str, Any] = {"variants": 1, "residual": True, "gate": None, "progress": False}
    files = open_dataset(tmp_path / "images", image_size=8)
    made = make_bank(checkpoint(), files, tmp_path / "bank", **options)
    folder_of_torchvision = ImageFolder(str(tmp_path / "images"))
    assert folder_of_torchvision[0][0].size == (40, 60)
    for p in (0.0, 1.0):
        data = BankDataset(folder_of_torchvision, made, p=p)
        for index in range(12):
            upright = decode_image(Path(files.name(index)).read_bytes(), "upright")
            assert upright.size == (60, 40)
            pixels = np.asarray(upright)
            if p and made.applied[index, 0]:
                pixels = made.variant(index, 0, pixels)
            assert (np.array(data[index][0]) == pixels).all()


def test_data_set_adds_changes_before_its_transform(bank: Bank) -> None:
    source = TensorDataset(LARGE, LABELS)
    data = BankDataset(source, bank, p=1.0, transform=np.array)
    image, label = data[4]
    assert image.shape == (40, 40, 3)
    assert label == int(LABELS[4])
    variants = [bank.variant(4, v, LARGE[4].permute(1, 2, 0).numpy()) for v in range(2)]
    assert any((image == variant).all() for variant in variants)
    data.p = 0.0
    assert (data[4][0] == LARGE[4].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_detail_leaves_inside_the_box_alone(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(256, (1, channels, 8, 8), generator=generator, dtype=torch.uint8)
    square = 0.8 * resize_levels(low, (16, 16)) + 50 * torch.rand(
        1, channels, 16, 16, generator=generator
    )
    pixels = torch.randint(256, (1, channels, 16, 40), generator=generator).float()
    pixels[..., 12:28] = square
    pixels = pixels.to(torch.uint8)
    seen = pixels[..., 12:28]
    low = resize_levels(seen, (8, 8)).float()
    q, steps = quantize(low.mean((2, 3), keepdim=True) - low)  # all structure goes
    stored = q * (steps / 128)[:, None, None, None]
    expected = 255 * add_change(seen / 255, stored / 255, low / 255)
    image, multiples = (x[0].permute(1, 2, 0).numpy() for x in (pixels, q))
    found = add_residual(image, multiples, int(steps[0]), (12, 0, 28, 16))
    error = np.abs(found[:, 12:28] - expected[0].permute(1, 2, 0).numpy())
    assert error.max() < 4
    assert (found[:, :10] == image[:, :10]).all()
    assert (found[:, 30:] == image[:, 30:]).all()
