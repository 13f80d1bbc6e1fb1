"""Open hostile folders and files as data sets, in Python and with `nfaug fit`."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import socket
import struct
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from attack_tools import run_script
from nfa_tools import images_of
from PIL import Image, TiffImagePlugin
from torch import tensor

from nfaug import cli
from nfaug.data.open import open_dataset, to_tensors

__all__ = ["COUNT", "KINDS", "case"]

COUNT = 104
ENDINGS = ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm")


def case(folder: Path, number: int) -> str:
    """Make hostile data, open and read them; return the kind and the outcome.

    Raises:
        Exception: Whatever reading raised that is not documented.
        AssertionError: A program was started, the command failed with an undocumented exit status,
            or printed a control character.
    """
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    root = folder / str(number)
    root.mkdir()
    try:
        data = kind(root, rng, number // len(KINDS)) or root
        outcome = read(data, rng)
        command(data, root)
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)  # shutil recurses
    assert not (folder / "started").exists(), "a program was started"
    return f"{kind.__name__}: {outcome}"


def read(data: Path, rng: random.Random) -> str:
    skip = rng.random() < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_dataset(data, image_size=8, on_error="skip" if skip else "raise")
            images, labels = to_tensors(opened)
        except (ValueError, FileNotFoundError) as error:
            return "out of memory" if "MemoryError" in str(error) else "refused"
    assert images.shape == (len(labels), opened.channels, 8, 8)
    return "read" if not opened.skipped else "read in part"


def command(data: Path, root: Path) -> None:
    """Fit the flow without weights to the data."""
    words = ["fit", "--flow", "builtin:pixels", "--data", str(data), "--out", str(root / "out")]
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # printed, as in a process of its own
        code = cli.main([*words, "--on-error", "skip", "--rank", "2", "--max-per-class", "8"])
    text = said.getvalue()
    assert code in (0, 2), (code, text[-300:])
    odd = [c for c in text if not c.isprintable() and c not in "\n\r\t"]
    assert not odd, f"control characters: {text[-300:]!a}"


# Harmless data, to which the kinds of attack add theirs.


def classes(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    for label, name in enumerate(names):
        for number in range(count):
            save(root / name / f"{number}.png", seed=count * label + number)
    return root


def save(path: Path, seed: int = 0, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = images_of(tensor([seed]), seed=seed)[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, **options)


def png(height: int, width: int, *extra: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    if data is None:
        data = zlib.compress(bytes(min(height * (width + 1), 2**26)), 9)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


# The kinds of attack. `number` counts the cases of a kind. Data that are not root are returned.


def pipes(root: Path, rng: random.Random, number: int) -> Path | None:
    classes(root)
    place = ["cat/x.png", "labels.csv", "x.tar", "x.npz"][number % 4]
    os.mkfifo(root / place)
    return root / place if place.startswith("x") else None


def sockets(root: Path, rng: random.Random, number: int) -> Path | None:
    classes(root)
    here = os.getcwd()
    os.chdir(root / "cat")  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x.png")
    os.chdir(here)
    return root / "cat" / "x.png" if number % 2 else None


def circles(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    for name, target in (("up", ".."), ("self", "self"), ("dog", "../dog"), ("a", "b"), ("b", "a")):
        (root / "cat" / name).symlink_to(target)
    (root / "cat" / "loop.png").symlink_to("loop.png")
    for level in range(18 if number % 2 else 0):  # 2^18 paths
        (root / "x" / str(level)).mkdir(parents=True)
        for link in "ab":
            (root / "x" / str(level) / link).symlink_to(root / "x" / str(level + 1))
    if number % 2:
        save(root / "x" / "18" / "1.png")


def links_out(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    for name, target in (("x.png", "/dev/zero"), ("y.png", "/etc/passwd"), ("z.png", "/nowhere")):
        (root / "cat" / name).symlink_to(target)
    (root / "dog" / "folder").symlink_to(["/dev", "/etc", "/proc/self/fd", "/nowhere"][number % 4])
    (root / "labels.csv").symlink_to(["/dev/zero", "/etc/passwd"][number % 2])


def deep(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    here = os.getcwd()
    os.chdir(root)
    for _ in range(1200):
        os.mkdir("x")
        os.chdir("x")
    if number % 2:
        save(Path("1.png"))
    os.chdir(here)


def names(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    odd = [
        *(b"\x1b[2Jx", b"a\nb", b"\r\x08", b"\xff\xfe", b"--help", b"\xe2\x80\xae", b"x" * 250),
        *(b"'\"; rm", b"%s{0}", b"\xed\xa0\x80", b" ", b"~", b"\x1b]0;x\x07", b"..x"),
    ]
    for name in rng.sample(odd, 4):
        inner = os.path.join(os.fsencode(root), name)
        os.mkdir(inner)
        for ending in (b".png", b".jpg"):
            with open(os.path.join(inner, rng.choice(odd)[:200] + ending), "wb") as file:
                file.write((root / "cat" / "0.png").read_bytes()[: None if number % 2 else -20])


def png_bombs(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    text = zlib.compress(bytes(2**27), 9)
    bombs = [
        *(png(1, 2_000_000), png(2_000_000, 1), png(30_000, 30_000), png(2**31 - 1, 2**31 - 1)),
        *(png(8, 8, (b"zTXt", b"a\0\0" + text)), png(8, 8, (b"iCCP", b"a\0\0" + text))),
        *(png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + text)), png(8, 8, data=text), png(0, 0)),
        *(png(8, 8, (b"acTL", struct.pack(">2I", 2**31, 0))), png(8, 8, (b"eXIf", bytes(2**24)))),
    ]
    for index, data in enumerate(bombs):
        (root / "cat" / f"bomb{index}.png").write_bytes(data)


def truncated(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    for ending in ENDINGS:
        path = root / "dog" / f"x.{ending}"
        save(path)
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data))])


def flipped(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    for ending in ENDINGS:
        for copy in range(8):
            path = root / "dog" / f"{copy}.{ending}"
            save(path, copy)
            data = bytearray(path.read_bytes())
            for _ in range(rng.choice([1, 4, 20])):
                data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255])
            path.write_bytes(data)


def other_formats(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    starts = [eps, b"%PDF-1.4\n", b"8BPS\0\1", b"icns\0\0\1\0", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"]
    starts += [b"GIF89a" + b"\xff" * 8, b"SIMPLE  =  T", b"\x0a\x05\x01\x08", b"#!/bin/sh\n", b""]
    for index, data in enumerate(starts):
        for ending in ENDINGS:
            (root / "cat" / f"{index}.{ending}").write_bytes(data + bytes(200 * (number % 2)))


def headers(root: Path, rng: random.Random, number: int) -> None:
    """Headers of other formats that announce huge images."""
    classes(root)
    huge = rng.choice([2**31 - 1, 2**32 - 1, 99_999, 65_535])
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257] = huge, huge
    for tag, value in ((258, 8), (259, 1), (262, 1), (273, 8), (278, huge), (279, 10)):
        tags[tag] = value
    tiff = io.BytesIO(b"II*\0\x08\0\0\0")
    tiff.seek(8)
    tags.save(tiff)
    size = struct.pack("<ii", huge & 0x7FFFFFFF, -(huge & 0x7FFFFFFF))
    side = struct.pack("<HH", *[min(huge, 65_535)] * 2)
    for name, data in {
        "a.ppm": b"P6 %d %d 255\n" % (huge, huge),
        "b.pgm": b"P5 8 8 65536\n" + bytes(64),
        "c.pbm": b"P1 %d 1\n" % huge + b"1 " * 100,
        "d.tiff": tiff.getvalue(),
        "e.bmp": b"BM" + bytes(8) + struct.pack("<II", 54, 40) + size + b"\1\0\x18\0" + bytes(24),
        "f.gif": b"GIF89a" + side + b"\x80\0\0" + b"\0\0\0\1\1\1," + bytes(4) + side + b"\0\2\0;",
        "g.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
        "h.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xd9",
    }.items():
        (root / "dog" / name).write_bytes(data)


def long_gif(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    frames = [Image.new("P", (8, 8), frame % 256) for frame in range(2000)]
    frames[0].save(root / "cat" / "x.gif", save_all=True, append_images=frames[1:], duration=0)
    Image.new("I;16", (8, 8), 60_000).save(root / "dog" / "deep.png")
    Image.new("CMYK", (8, 8)).save(root / "dog" / "ink.jpg")
    Image.new("RGBA", (8, 8)).save(root / "dog" / "clear.png")


def idx(root: Path, rng: random.Random, number: int) -> None:
    kind = (8, 8, 8, 8, 9, 0)[number % 6]
    sizes = rng.choice([(4, 8, 8), (2**32 - 1,) * 3, (0, 8, 8), (4, 0, 8), (2**16, 2**8, 2**8)])
    images = bytes([0, 0, kind, 3]) + struct.pack(">3I", *sizes)
    images += bytes(rng.choice([256, 2**26, 0, 255]))
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + rng.choice([bytes(4), b"\xff\0\1\2", b""])
    for name, data in (("images-idx3", images), ("labels-idx1", labels)):
        if rng.random() < 0.6:
            (root / f"train-{name}-ubyte.gz").write_bytes(
                gzip.compress(data, 9)[: rng.choice([None, None, 40])]
            )
        else:
            (root / f"train-{name}-ubyte").write_bytes(data)


def gz_bombs(root: Path, rng: random.Random, number: int) -> Path:
    path = root / ["x.tar.gz", "x.tar", "x.tgz", "train.npz"][number % 4]
    with gzip.open(path, "wb", 9) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    return path


def tars(root: Path, rng: random.Random, number: int) -> Path:
    inside, path = classes(root / "inside"), root / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        if number % 4 != 3:
            archive.add(inside, arcname=rng.choice([".", "x", "\x1b[2J", "../../x", "/x"]))
        member = tarfile.TarInfo(rng.choice(["cat/x.png", "../x.png", "cat/\x1b[31m.png", "dog"]))
        kinds = [
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ]
        member.type, member.linkname = rng.choice(kinds), "/etc/passwd"
        member.pax_headers = {"comment": "x" * rng.choice([1, 10**6]), "GNU.sparse.realsize": "1"}
        archive.addfile(member)
    data = bytearray(path.read_bytes())
    if number % 2:
        at = rng.randrange(0, len(data) - 512, 512)
        data[at + 124 : at + 136] = rng.choice(
            [b"7" * 12, b"\x80" + b"\xff" * 11, b"\xff" * 12, b"x" * 12]
        )
        header = bytes(data[at : at + 148]) + b" " * 8 + bytes(data[at + 156 : at + 512])
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(data)
    return path


def npz(root: Path, rng: random.Random, number: int) -> Path:
    pixels = np.zeros((8, 8, 8, 3), np.uint8)
    targets: Any = np.arange(8) % 2
    arrays: dict[str, Any] = {"images": pixels, "labels": targets}
    way = number % 4 if number < 12 else rng.randrange(4)
    if way == 0:
        arrays["labels"] = rng.choice(
            [targets + 10**9, targets - 1, targets * 2**62, targets * 1.0]
        )
    elif way == 1:
        arrays |= rng.choice(
            [{"images": pixels[:0]}, {"labels": targets[:3]}, {"classes": targets}]
        )
    buffers = {}
    for name, array in arrays.items():
        np.save(buffer := io.BytesIO(), array)
        buffers[name] = buffer.getvalue()
    if way == 2:
        claims = [b"(99999999, 99999, 9, 3)", b"(" * 60, b"(-1,)", b"__import__('os')", b"(2**63,)"]
        text = b"{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (
            rng.choice([b"|u1", b"|O", b"|V9", b"<U9"]),
            rng.choice(claims),
        )
        text = text.ljust(117) + b"\n"
        buffers["images"] = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(99)
    elif way == 3:
        buffers["images"] += bytes(2**26)
    with zipfile.ZipFile(root / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in buffers.items():
            archive.writestr(f"{name}.npy", data)
    if rng.random() < 0.4:
        data = bytearray((root / "x.npz").read_bytes())
        at = data.find(b"PK\x01\x02")
        data[at + rng.choice([6, 8, 10, 20, 24, 42])] ^= rng.choice([1, 9, 99, 255])
        (root / "x.npz").write_bytes(data)
    return root / "x.npz"


def tables(root: Path, rng: random.Random, number: int) -> None:
    for index in range(4):
        save(root / f"{index}.png", index)
    rows = [
        *(b"0.png,cat", b"1.png,dog", b"1.png,cat", b"2.png", b"2.png,", b",cat", b"3.png,a,b"),
        *(b"/etc/passwd,cat", b"../x.png,cat", b'"2.png', b"2.png,\x1b[31m", b"\xff\xfe,cat"),
        *(b"3.png," + b"x" * 200_000, b"3.png,\0", b'"0\n.png",cat', b"=cmd|' /C calc',cat", b""),
    ]
    chosen = rows[:2] + rng.sample(rows, number % 5)
    table = b"file,label\n" + b"\n".join(chosen) + b"\n" * rng.choice([1, 10**6])
    (root / "labels.csv").write_bytes(rng.choice([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]) + table)


def empty(root: Path, rng: random.Random, number: int) -> Path | None:
    way = number % 4
    if way == 1:
        (root / "cat").mkdir()
    elif way == 2:
        classes(root, ("cat",), 1)
        (root / "cat" / "0.png").write_bytes(b"")
    elif way == 3:
        (root / "x.tar").write_bytes(bytes(10_240))
        return root / "x.tar"
    return None


KINDS: list[Callable[[Path, random.Random, int], Path | None]] = [
    *(pipes, sockets, circles, links_out, deep, names, png_bombs, truncated, flipped),
    *(other_formats, headers, long_gif, idx, gz_bombs, tars, npz, tables, empty, npz, tars),
    *(names, flipped, tables, idx, headers, truncated),
]


def prepare(folder: Path) -> None:
    """Put a Ghostscript that leaves a mark on the PATH, and import what commands import."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("gs", "gswin64c", "sh", "open", "xdg-open"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{folder / 'started'}'\n")
        (programs / name).chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    data = classes(folder / "good")
    assert read(data, random.Random(0)) == "read"
    command(data, folder)


if __name__ == "__main__":
    run_script(prepare, case)
