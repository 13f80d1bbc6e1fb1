"""Limits of image files: formats, pixels, depth, orientation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tools.images import png

from nfaug.data.batches import Streamed, batches
from nfaug.data.image_files import ImageDecodeError, decode_image, read_header
from nfaug.data.open import open_dataset
from nfaug.data.resize import channels_of, channels_of_mode, size_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two grayscale images in each of two classes."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.full((6, 6), 9, np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_too_many_pixels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's limit; a user may raise it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (folder / "a" / "2.png").write_bytes(png(size=(20, 20)))
    with pytest.raises(ImageDecodeError, match="DecompressionBomb"):
        open_dataset(folder, image_size=6, channels=1)[2]
    skipping = open_dataset(folder, image_size=6, on_error="skip")
    assert [Path(name).name for name in skipping.skipped] == ["2.png"]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images(folder: Path, mode: str) -> None:
    levels = np.linspace(0, 1, 36).reshape(6, 6)
    array = {
        "I;16": (levels * 65535).astype(np.uint16),
        "I": (levels * 65535).astype(np.int32),
        "F": levels.astype(np.float32),
    }[mode]
    path = folder / "a" / "2.tiff"
    Image.fromarray(array).save(path)
    opened = open_dataset(folder)
    wrapped = open_dataset([(Image.fromarray(array), 0)])
    for image in (opened[2][0], wrapped[0][0]):
        assert image.shape == (1, 6, 6)
        assert (image[0] - torch.from_numpy(levels * 255)).abs().max() < 0.51
    if mode != "I;16":
        Image.fromarray(array * 1000).save(path)
        with pytest.raises(ImageDecodeError, match=mode):
            opened[2]
        skipped = open_dataset(folder, on_error="skip").skipped
        assert [Path(name).name for name in skipped] == ["2.tiff"]


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255  # white on the left of what is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: white on top
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "a" / f"0.{ending}", exif=exif)
    image = open_dataset(tmp_path, labels=False, image_size=(32, 16))[0][0].float()
    assert image.shape == (3, 32, 16)
    assert image[:, :12].min() > 200
    assert image[:, 20:].max() < 50
    if ending != "tiff":
        assert open_dataset(tmp_path, labels=False).image_size == (32, 16)


def test_grayscale_needs_consent(folder: Path) -> None:
    assert open_dataset(folder, channels=1, convert=False).channels == 1
    Image.new("RGB", (6, 6)).save(folder / "a" / "2.png")
    assert open_dataset(folder, channels=1)[2][0].shape == (1, 6, 6)
    with pytest.raises(ValueError, match=r"2\.png"):
        open_dataset(folder, channels=1, convert=False)


def test_an_error_of_a_worker_is_one_line(folder: Path) -> None:
    images = open_dataset(folder, image_size=6, channels=1)
    (folder / "b" / "1.png").write_bytes(b"damaged")
    data = Streamed(images, images.targets, workers=1)
    with pytest.raises(ImageDecodeError, match=r"1\.png") as raised:
        list(batches(data, torch.arange(4).split(2)))
    assert str(raised.value).startswith(str(folder))
    assert len(str(raised.value).splitlines()) == 1


def test_damaged_bytes_are_one_error() -> None:
    whole = png(size=(8, 8))
    assert decode_image(whole, "x").size == (8, 8)
    for data in (b"", b"GIF89a", whole[:30], whole[:45], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(ImageDecodeError, match="image 7"):
            decode_image(data, "image 7")


@pytest.mark.parametrize("size", [(9, 5), (6, 6)], ids=["wide", "square"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        *[(".jpg", mode) for mode in ("L", "RGB", "CMYK")],
        *[(".png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
        *[(".tiff", mode) for mode in ("L", "RGB", "I;16", "F")],
        *[(".gif", mode) for mode in ("L", "P", "RGB")],
        *[(".webp", mode) for mode in ("L", "RGB", "RGBA")],
        *[(".bmp", "RGB"), (".ppm", "RGB"), (".pgm", "L")],
    ],
)
def test_a_header_says_what_decoding_gives(
    ending: str, mode: str, orientation: int, size: tuple[int, int]
) -> None:
    image = Image.new(mode, size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    told = {"exif": exif.tobytes()} if ending in (".jpg", ".png", ".webp", ".tiff") else {}
    image.save(stored, Image.registered_extensions()[ending], **told)
    decoded = decode_image(stored.getvalue(), "it")
    found_mode, found_size = read_header(stored.getvalue(), "it")
    assert found_size == size_of(decoded)
    assert channels_of_mode(found_mode) == channels_of(decoded)


def test_a_header_is_read_without_pixels() -> None:
    photograph = io.BytesIO()
    Image.effect_noise((80, 60), 50).convert("RGB").save(photograph, "JPEG")
    cut = photograph.getvalue()[:-200]
    with pytest.raises(ImageDecodeError, match=r"(?i)truncated"):
        decode_image(cut, "it")
    assert read_header(cut, "it") == ("RGB", (60, 80))
    with pytest.raises(ImageDecodeError, match="it cannot be decoded"):
        read_header(cut[:20], "it")
    with pytest.raises(ImageDecodeError, match="pillow-heif"):
        read_header(cut, "it.heic")
