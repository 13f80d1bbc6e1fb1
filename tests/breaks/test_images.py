"""Image files that once stopped or flooded a reader, or came out wrong."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_tools import bounded
from data_tools import png, save
from PIL import Image

from nfaug.data.decode import ImageDecodeError
from nfaug.data.images import to_tensors
from nfaug.data.open import open_dataset, wrap_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A grayscale image in each of two classes."""
    for seed, name in enumerate(("cat", "dog")):
        save(tmp_path / name / "0.png", seed, (6, 6))
    return tmp_path


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def check_skipped(folder: Path, name: str) -> None:
    """The image is an error that names it, and can be skipped."""
    opened = open_dataset(folder, image_size=6, channels=1)
    with pytest.raises(ImageDecodeError, match=name) as caught:
        to_tensors(opened)
    assert "on-error" in str(caught.value)
    found = open_dataset(folder, image_size=6, channels=1, on_error="skip")
    assert [Path(path).name for path in found.skipped] == [name]
    assert len(to_tensors(found)[0]) == 2


def test_eps_under_the_name_of_a_png(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 5: PIL started Ghostscript."""
    (folder / "cat" / "x.png").write_bytes(encoded(Image.new("L", (8, 8)), "EPS"))
    started: list[Any] = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    check_skipped(folder, "x.png")
    assert not started


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("lying", [False, True], ids=["standing", "lying"])
def test_a_thin_image(folder: Path, kind: str, lying: bool) -> None:
    """Breaks 7 and 32: a PNG of 87 bytes took 36 GB. Its centre is cropped before it is resized."""
    length = 16_000 if kind == "WEBP" else 60_000
    size = (length, 1) if lying else (1, length)
    image = Image.new("L", size, 200)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    (folder / "cat" / f"x.{kind.lower()}").write_bytes(encoded(image, kind, **options))
    with bounded("a thin image"):  # by memory, too
        found = open_dataset(folder, image_size=224, channels=1, on_error="skip")
        index = next(i for i in range(3) if "x." in found.name(i))
        pixels = found[index][0]
    assert (pixels.float() - 200).abs().max() <= 1


def test_a_thin_image_keeps_its_centre() -> None:
    """Breaks 7 and 32: what is kept is the centre, at the scale of the whole image."""
    ramp = torch.arange(1000).view(1, 1, 1000).expand(1, 4, 1000)
    image = (ramp // 4).to(torch.uint8)
    found = wrap_dataset([(image, 0)], image_size=(8, 8), channels=1)[0][0]
    assert found.shape == (1, 8, 8)
    # Eight pixels at twice the scale show columns 498 to 501: levels 124 and 125.
    assert set(found.unique().tolist()) <= {124, 125}


def test_a_sparse_file_of_a_terabyte(folder: Path) -> None:
    """Break 58: a MemoryError, which was not skipped."""
    with (folder / "cat" / "x.png").open("wb") as file:
        file.truncate(2**40)
    check_skipped(folder, "x.png")


@pytest.mark.parametrize("name", ["x.heic", "X.HEIF", "x.avif", "x.jxl"])
def test_formats_that_are_not_read(folder: Path, name: str) -> None:
    """Break 65: they were left out without a word."""
    (folder / "cat" / name).write_bytes(b"\0\0\0\x18ftypheic")
    check_skipped(folder, name)


def test_nothing_but_heic(tmp_path: Path) -> None:
    """Break 65: "holds no images"."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ImageDecodeError, match=r"x\.heic.*PNG"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_12_bits_in_a_file_of_16(folder: Path, kind: str) -> None:
    """Break 66: they became nearly black without a word."""
    levels = np.linspace(0, 4095, 36).reshape(6, 6).astype(np.uint16)
    (folder / "cat" / f"x.{kind.lower()}").write_bytes(encoded(Image.fromarray(levels), kind))
    opened = open_dataset(folder, image_size=6, channels=1)
    with pytest.warns(UserWarning, match="65535 / 4095"):
        to_tensors(opened)


def test_a_black_image_of_16_bits(folder: Path) -> None:
    """Break 66: without any light there is nothing to scale."""
    black = Image.fromarray(np.zeros((6, 6), np.uint16))
    (folder / "cat" / "x.png").write_bytes(encoded(black, "PNG"))
    assert len(to_tensors(open_dataset(folder, image_size=6, channels=1))[0]) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 300)])
def test_tiny_images(folder: Path, size: tuple[int, int]) -> None:
    """Break 7: images of one row or column are read at the size that is asked for."""
    (folder / "cat" / "x.png").write_bytes(png(9, size))
    assert to_tensors(open_dataset(folder, image_size=8, channels=1))[0].shape == (3, 1, 8, 8)
