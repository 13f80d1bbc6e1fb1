"""Images of any size and mode become 8-bit tensors of one shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tools.images import pixels, save
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from nfaug.data import image_files
from nfaug.data.batches import decode, in_memory
from nfaug.data.open import open_dataset
from nfaug.data.resize import (
    resize_in_floats,
    resize_levels,
    resized_size,
    round_levels,
)
from nfaug.data.view import View
from nfaug.io.numbers import as_size


def test_resize_and_crop(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    save(tmp_path / "a" / "0.png")
    Image.fromarray(wide).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "a" / "1.png")
    image = open_dataset(tmp_path, labels=False, image_size=5)[1][0]
    assert image.shape == (3, 5, 5)
    assert (image[:, :, 1:4] == 200).all()  # the middle third, scaled by one half
    assert open_dataset(tmp_path, labels=False, image_size=(4, 12))[1][0].shape == (3, 4, 12)
    with pytest.raises(ValueError, match="got 0"):
        open_dataset(tmp_path, labels=False, image_size=0)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    """They are opened once, each has its own size, and `at` reads them at one."""
    for number, size in enumerate([(6, 6, 3), (10, 30, 3), (6, 6, 3)]):
        save(tmp_path / "a" / f"{number}.png", number, size)
    data = open_dataset(tmp_path, labels=False)
    assert [tuple(image.shape) for image, _ in data] == [(3, 6, 6), (3, 10, 30), (3, 6, 6)]
    assert torch.equal(data[1][0], torch.from_numpy(pixels(1, 10, 30, 3)).permute(2, 0, 1))
    assert (data.has_one_size, data.preprocessing["image_size"]) == (False, None)
    said = r"0\.png has 6 x 6 and .*1\.png has 10 x 30 pixels.*--image-size.*image_size=64"
    loader = DataLoader(Subset(data, [0, 1]), batch_size=2)
    batches = (lambda: data.image_size, lambda: decode(data), lambda: next(iter(loader)))
    for batch in (*batches, lambda: in_memory(data)):
        with pytest.raises(ValueError, match=said):
            batch()
    for size in (5, (5, 5)):
        at_size = data.at(size)
        assert at_size.has_one_size
        expected = open_dataset(tmp_path, labels=False, image_size=size)
        assert torch.equal(decode(at_size), decode(expected))
        assert at_size.preprocessing == expected.preprocessing
    assert [len(image) for image, _ in open_dataset([*data])] == [3, 3, 3]


def test_an_image_of_another_size_among_many(tmp_path: Path) -> None:
    """Sizes of 64 images are compared at first; each image that is read is compared, too."""
    for number in range(200):
        save(tmp_path / "a" / f"{number}.png", number)
    save(tmp_path / "a" / "1.png", 1, (10, 30, 3))
    data = open_dataset(tmp_path, labels=False)
    assert (data.has_one_size, data.image_size) == (True, (6, 6))
    with pytest.raises(ValueError, match=r"1\.png has 10 x 30.*--image-size.*image_size"):
        decode(data)
    assert decode(data.at(6)).shape == (200, 3, 6, 6)


@pytest.mark.parametrize(
    ("value", "size"),
    [(8, (8, 8)), ("8", (8, 8)), ("8,6", (8, 6)), ((8, 6), (8, 6)), ([8, 6], (8, 6))],
)
def test_one_spelling_of_a_size(value: Any, size: tuple[int, int]) -> None:
    assert as_size(value) == size


@pytest.mark.parametrize("value", [0, "", "8x6", (8, 6, 4), (8, -1), None, 8.5, "8,"])
def test_wrong_sizes(value: Any) -> None:
    with pytest.raises(ValueError, match="image size"):
        as_size(value)


def test_channels(tmp_path: Path) -> None:
    for seed in range(200):
        save(tmp_path / "a" / f"{seed}.png", seed, (6, 6))
    gray = open_dataset(tmp_path, labels=False)
    assert gray.channels == 1
    assert torch.equal(gray[7][0][0], torch.from_numpy(pixels(7, 6, 6)))
    color = open_dataset(tmp_path, labels=False, channels=3)[7][0]
    assert torch.equal(color, gray[7][0].expand(3, -1, -1))
    save(tmp_path / "a" / "1.png", 1)  # not among the images that are looked at
    with pytest.raises(ValueError, match=r"1\.png"):
        open_dataset(tmp_path, labels=False)[1]
    file = Image.open(tmp_path / "a" / "1.png")
    expected = torch.from_numpy(np.array(file.convert("L")))
    assert torch.equal(open_dataset(tmp_path, labels=False, channels=1)[1][0][0], expected)
    as_tensor = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    assert torch.equal(open_dataset([(as_tensor, 0)], channels=1)[0][0][0], expected)
    save(tmp_path / "a" / "0.png", 0)  # the first: now colors are expected
    assert open_dataset(tmp_path, labels=False).channels == 3
    with pytest.raises(ValueError, match="got 4"):
        open_dataset(tmp_path, labels=False, channels=4)


def test_file_modes(tmp_path: Path) -> None:
    palette = Image.fromarray(pixels(0, 6, 6, 3)).quantize(8)
    (tmp_path / "a").mkdir()
    palette.save(tmp_path / "a" / "p.png", transparency=b"\x00\x80\xff")
    save(tmp_path / "a" / "q.png", 0, (6, 6, 4))
    images = decode(open_dataset(tmp_path, labels=False))
    assert images.shape == (2, 3, 6, 6)


def test_ties_do_not_depend_on_the_last_digits() -> None:
    tie = torch.tensor([0.5, 1.5, 254.5])
    for noise in (-1e-4, 0.0, 1e-4):
        assert round_levels(tie + noise).tolist() == [1, 2, 255]
    assert round_levels(torch.tensor([-3.0, 0.49, 300.0])).tolist() == [0, 0, 255]
    image = torch.randint(256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    halved = [
        round_levels(
            scale * F.interpolate(image / scale, (16, 16), mode="bilinear", antialias=True)
        )
        for scale in (1.0, 255.0)
    ]
    assert torch.equal(*halved)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(24, 32), (33, 17), (90, 120)])
def test_images_are_resized_as_torchvision_does(channels: int, size: tuple[int, int]) -> None:
    """Files, tensors and strips; an accelerator, which resizes no bytes, differs by one level."""
    image = Image.effect_noise((80, 60), 60).convert("RGB")
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[[0, 1, 2, 0, 1][:channels]]
    expected = v2.functional.resize(levels, list(size), antialias=True)
    assert torch.equal(resize_levels(levels, size), expected)
    assert torch.equal(resize_levels(levels[None], size)[0], expected)
    if channels == 3:
        preprocess = View(3, size)
        kept = v2.functional.resize(levels, list(resized_size((60, 80), size)), antialias=True)
        top, left = ((a - b) // 2 for a, b in zip(kept.shape[1:], size, strict=True))
        kept = kept[:, top : top + size[0], left : left + size[1]]
        assert torch.equal(preprocess(image, "it"), kept)
        assert torch.equal(preprocess(levels, "it"), kept)
    elsewhere = resize_in_floats(levels, size)
    apart = (elsewhere.int() - expected.int()).abs()
    if size[0] < 60:
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 0.01
    else:  # a third of the averages end in 1/2
        assert apart.max() <= 2
        assert (apart > 0).float().mean() < 0.15


def test_strips_have_the_levels_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.effect_noise((80, 60), 60).convert("RGB")
    whole = View(3, (16, 16))(image, "it")
    monkeypatch.setattr(image_files, "STRIP", 2800)
    assert torch.equal(View(3, (16, 16))(image, "it"), whole)


def test_a_column_of_color_pixels_to_one_pixel() -> None:
    """torch 2.13 has an internal error there."""
    levels = torch.tensor([[0, 100], [50, 150], [255, 255]], dtype=torch.uint8)[..., None]
    assert resize_levels(levels, (1, 1)).flatten().tolist() == [50, 100, 255]
