"""Image files that once stopped or flooded a reader, or came out wrong."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tools.checkpoint import bounded
from tools.images import png, save

from nfaug.data import image_files, resize
from nfaug.data.batches import decode
from nfaug.data.image_files import ImageDecodeError
from nfaug.data.open import open_dataset
from nfaug.data.source import pixels_sha256
from nfaug.data.view import View


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
        decode(opened)
    assert "on-error" in str(caught.value)
    found = open_dataset(folder, image_size=6, channels=1, on_error="skip")
    assert [Path(path).name for path in found.skipped] == [name]
    assert len(decode(found)) == 2


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
    found = open_dataset([(image, 0)], image_size=(8, 8), channels=1)[0][0]
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
        decode(opened)


def test_a_black_image_of_16_bits(folder: Path) -> None:
    """Break 66: without any light there is nothing to scale."""
    black = Image.fromarray(np.zeros((6, 6), np.uint16))
    (folder / "cat" / "x.png").write_bytes(encoded(black, "PNG"))
    assert len(decode(open_dataset(folder, image_size=6, channels=1))) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 300)])
def test_tiny_images(folder: Path, size: tuple[int, int]) -> None:
    """Break 7: images of one row or column are read at the size that is asked for."""
    (folder / "cat" / "x.png").write_bytes(png(9, size))
    assert decode(open_dataset(folder, image_size=8, channels=1)).shape == (3, 1, 8, 8)


SIDE = 13_300  # just below PIL's limit of 2**27.4 pixels


def black_png(side: int, bits: int, *, palette: bool = False) -> bytes:
    """A black PNG of a few kB, written without ever having its pixels."""
    rows = zlib.compressobj(9)
    row = bytes(1 + (side * bits + 7) // 8)
    packed = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, bits, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    if palette:
        chunks.insert(1, (b"PLTE", bytes([9, 9, 9, 8, 8, 8])))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        check = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + check
    return data


# Reads the large images of a folder in as many threads, and prints the memory and the processor
# time that this took: in MB, and in seconds.
READS = """
import resource, sys, time, warnings
from concurrent.futures import ThreadPoolExecutor
import torch
from nfaug.data.open import open_dataset
from nfaug.data.source import pixels_sha256

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

warnings.simplefilter("ignore")  # PIL's about the many pixels
torch.nn.functional.interpolate(torch.zeros(1, 3, 9, 9), 4, mode="bilinear", antialias=True)
how, count = sys.argv[2], int(sys.argv[3])
before, start = peak(), time.process_time()
if how == "infer":
    data = open_dataset(sys.argv[1], image_size=64)
else:
    data = open_dataset(sys.argv[1], image_size=224, channels=3)
if how == "hash":
    read = lambda i: pixels_sha256(data.source.read(i))
else:
    read = lambda i: data[i][0].max()
with ThreadPoolExecutor(count) as pool:
    list(pool.map(read, range(count)))
print(peak() - before, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has another unit")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bits", "palette", "how", "count", "most"),
    [
        (1, False, "read", 2, 460),
        (1, True, "infer", 1, 260),
        (1, False, "hash", 1, 260),
        (16, False, "read", 1, 640),
    ],
)
def test_a_large_square_image(
    tmp_path: Path, bits: int, palette: bool, how: str, count: int, most: int
) -> None:
    """Break 98 (and 7, 32): a PNG of 21 kB took 2.9 GB and 48 s; its pixels are 177 MB."""
    data = black_png(SIDE, bits, palette=palette)
    for number in range(count):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "0.png").write_bytes(data)
    save(tmp_path / "small" / "0.png", 0, (6, 6))
    words = [sys.executable, "-c", READS, str(tmp_path), how, str(count)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    memory, seconds = map(float, ran.stdout.split())
    assert memory < most
    assert seconds < 30


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"]


@pytest.mark.parametrize("mode", [*MODES, "tensor"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (5, 21), (60, 70)])
def test_strips_have_the_levels_of_the_whole(
    mode: str, channels: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 98: a large image is resized strip by strip, and no level changes by that."""
    levels = np.random.default_rng(0).integers(0, 256, (53, 47, 4), dtype=np.uint8)
    image: Any
    if mode == "tensor":
        image = torch.from_numpy(levels[..., :3].copy()).permute(2, 0, 1)
    elif mode == "I;16":
        image = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(levels[..., 0].astype(np.float32) / 255)
    else:
        image = Image.fromarray(levels).convert(mode)

    def made() -> tuple[torch.Tensor, bytes]:
        return View(channels, size)(image, "an image"), pixels_sha256(image)

    whole, digest = made()
    for module in (image_files, resize):
        monkeypatch.setattr(module, "STRIP", 1600)
    strips, digest_of_strips = made()
    assert torch.equal(strips, whole)
    assert digest_of_strips == digest
