"""Image files of every format, size and depth, whole and damaged, opened as a data set.

A file is read to an image of the size that was asked for, or refused by an error that names it; if
such files are skipped, it is skipped and counted. Reading takes at most ten times the memory of the
largest image, and starts no program.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import resource
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfaug.data.batches import decode
from nfaug.data.image_files import ImageDecodeError
from nfaug.data.open import open_dataset

__all__ = ["KINDS", "case", "prepare"]

WARM = 200  # cases that run before memory is limited: they import much
FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "gif": ("1", "L", "P", "RGB"),
    "bmp": ("1", "L", "P", "RGB"),
    "tiff": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("1", "L", "RGB"),
}
SIDES = (1, 1, 2, 3, 7, 8, 9, 31, 64, 200)
LONG = (300, 2_000, 16_000, 60_000)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
STARTS = (
    EPS, b"%PDF-1.4\n", b"8BPS\0\1", b"icns\0\0\1\0", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"GIF89a" + b"\xff" * 8, b"SIMPLE  =  T", b"\x0a\x05\x01\x08", b"#!/bin/sh\n", b"", b"\0" * 64,
    b"\0\0\0\x18ftypheic", b"RIFF\xff\xff\xff\xffWEBPVP8X", b"II*\0\x08\0\0\0\xff\xff",
)  # fmt: skip
LEAST = 2**28  # bytes of memory that any case may use


def prepare(folder: Path) -> None:
    """Put programs that leave a mark on the PATH, and read images of every format."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("gs", "gswin64c", "sh", "open", "xdg-open"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{folder / 'started'}'\n")
        (programs / name).chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    for number in range(WARM):
        case(folder, number)


def case(folder: Path, number: int) -> str:
    """Write two images, of which the second is hostile, and read them."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    ending = rng.choice(sorted(FORMATS))
    root = folder / "images"
    first, second = root / "cat" / "0.png", root / "dog" / f"x.{ending}"
    for file in (first, second):
        file.parent.mkdir(parents=True, exist_ok=True)
    for file in second.parent.iterdir():
        file.unlink()
    first.write_bytes(good())
    second.write_bytes(kind(rng, ending))
    if kind is sparse:
        os.truncate(second, rng.choice([2**29 + 1, 2**34, 2**40]))
    size = rng.choice([8, 32, 224, (5, 300), (1, 1)])
    skip = rng.random() < 0.5
    with warnings.catch_warnings(), limited(second):
        warnings.simplefilter("ignore")
        outcome = read(root, size, skip=skip, name=second.name)
    assert not (folder / "started").exists(), "a program was started"
    return f"{kind.__name__}: {outcome}"


def read(root: Path, size: Any, *, skip: bool, name: str) -> str:
    refused = ""
    try:
        data = open_dataset(root, image_size=size, on_error="skip" if skip else "raise")
        images = decode(data, progress=False)
    except ImageDecodeError as error:
        refused = str(error)
    if refused:
        assert not skip, f"not skipped: {refused}"
        assert name in refused
        assert "MemoryError" not in refused
        return "refused"
    assert images.shape[-2:] == ((size, size) if isinstance(size, int) else size)
    assert len(images) + len(data.skipped) == 2
    if len(images) == 1:
        assert data.skipped[0].endswith(name)
        return "skipped"
    return "read"


@contextlib.contextmanager
def limited(file: Path) -> Iterator[None]:
    """Limit memory to ten times that of the decoded image, or to 256 MiB more."""
    pixels = 0
    with contextlib.suppress(Exception), warnings.catch_warnings():  # of damaged headers: any
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            pixels = 4 * image.width * image.height  # as PIL stores most modes
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LEAST + 10 * pixels, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@functools.cache
def good() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(data, "PNG")
    return data.getvalue()


def picture(rng: random.Random, ending: str) -> Image.Image:
    """An image of any mode of the format and any size, thin ones among them."""
    mode = rng.choice(FORMATS[ending])
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    if rng.random() < 0.2:
        length = rng.choice(LONG[:3] if ending in ("webp", "jpg") else LONG)
        width, height = rng.choice([(length, rng.randrange(1, 4)), (rng.randrange(1, 4), length)])
    noise = np.random.default_rng(rng.randrange(2**32))
    if mode == "I;16":
        top = rng.choice([0, 255, 4095, 65535])
        return Image.fromarray(noise.integers(0, top + 1, (height, width), dtype=np.uint16))
    if mode == "F":
        values = noise.random((height, width), dtype=np.float32) * rng.choice([1, 1, 300])
        values[0, 0] = rng.choice([0, 1, np.nan, np.inf, -1])
        return Image.fromarray(values)
    levels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, levels.tobytes())
    return image.convert(mode)


def encoded(rng: random.Random, ending: str) -> bytes:
    options: dict[str, Any] = {}
    if ending == "tiff":
        kinds = [None, "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"]
        options["compression"] = rng.choice(kinds)
    elif ending == "jpg":
        options["progressive"] = rng.random() < 0.5
        options["quality"] = rng.choice([1, 75, 100])
    if ending in ("jpg", "png", "webp", "tiff") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255])
        options["exif"] = exif
    image = picture(rng, ending)
    if ending in ("gif", "webp", "tiff", "png") and rng.random() < 0.1:
        options |= {"save_all": True, "append_images": [image] * rng.choice([1, 3])}
    data = io.BytesIO()
    kind = {"jpg": "JPEG", "ppm": "PPM"}.get(ending, ending.upper())
    try:
        image.save(data, kind, **options)
    except (OSError, ValueError, RuntimeError):  # combinations that PIL does not write
        data = io.BytesIO()
        image.save(data, kind)
    return data.getvalue()


# The kinds: the bytes of a file, or what is done to them.


def whole(rng: random.Random, ending: str) -> bytes:
    return encoded(rng, ending)


def flipped(rng: random.Random, ending: str) -> bytes:
    data = bytearray(encoded(rng, ending))
    within = len(data) if rng.random() < 0.5 else min(len(data), 64)
    for _ in range(rng.choice([1, 1, 4, 20])):
        data[rng.randrange(within)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(data)


def cut(rng: random.Random, ending: str) -> bytes:
    data = encoded(rng, ending)
    return data[: rng.randrange(len(data))]


def longer(rng: random.Random, ending: str) -> bytes:
    data = encoded(rng, ending)
    return data + rng.choice([b"\0" * 4096, data, rng.randbytes(1000)])


def renamed(rng: random.Random, ending: str) -> bytes:
    return encoded(rng, rng.choice(sorted(FORMATS)))


def other_format(rng: random.Random, ending: str) -> bytes:
    return rng.choice(STARTS) + bytes(rng.choice([0, 200]))


def other_size(rng: random.Random, ending: str) -> bytes:
    """A PNG whose header gives another size, with the checksum that belongs to it."""
    data = bytearray(encoded(rng, "png"))
    sides = [0, 1, 2, 60_000, 13_000, 2**24, 2**31 - 1, 2**32 - 1]
    struct.pack_into(">II", data, 16, rng.choice(sides), rng.choice(sides))
    data[24] = rng.choice([data[24], 1, 8, 16])
    data[25] = rng.choice([data[25], 0, 2, 3, 4, 6])
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def thin(rng: random.Random, ending: str) -> bytes:
    length = 16_000 if ending in ("webp", "jpg") else rng.choice(LONG)
    side = rng.choice([1, 1, 2])
    image = Image.new("L", rng.choice([(length, side), (side, length)]), 99)
    data = io.BytesIO()
    image.save(data, {"jpg": "JPEG", "ppm": "PPM"}.get(ending, ending.upper()))
    return data.getvalue()


def sparse(rng: random.Random, ending: str) -> bytes:
    return encoded(rng, ending)


KINDS: list[Callable[[random.Random, str], bytes]] = [
    *(whole, flipped, cut, whole, flipped, other_size, longer, renamed, other_format, thin),
    *(whole, flipped, cut, whole, flipped, other_size, longer, renamed, flipped, sparse),
]
