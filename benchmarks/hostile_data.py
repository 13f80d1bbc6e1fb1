"""Open hostile folders and files as data sets, in Python and with `nfaug fit`."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack_tools import run_script
from nfa_tools import images_of
from PIL import Image
from torch import tensor

from nfaug import cli
from nfaug.data.images import to_tensors
from nfaug.data.open import open_dataset

__all__ = ["COUNT", "KINDS", "case"]

COUNT = 84
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
    root, out = folder / str(number), folder / f"{number}-out"
    root.mkdir()
    try:
        data = kind(root, rng, number // len(KINDS)) or root
        outcome = read(data, rng)
        command(data, out)
    finally:
        subprocess.run(["rm", "-rf", str(root), str(out)], check=True)  # shutil recurses
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


def command(data: Path, out: Path) -> None:
    """Fit the flow without weights to the data."""
    words = ["fit", "--flow", "builtin:pixels", "--data", str(data), "--out", str(out)]
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # printed, as in a process of its own
        code = cli.main([*words, "--on-error", "skip", "--rank", "2", "--per-class", "8"])
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


# The kinds of attack. `number` counts the cases of a kind. Data that are not root are returned.


def pipes(root: Path, rng: random.Random, number: int) -> Path | None:
    classes(root)
    place = ["cat/x.png", "x.tar", "x.npz", "x.parquet"][number % 4]
    os.mkfifo(root / place)
    return root / place if place.startswith("x") else None


def rows(root: Path, rng: random.Random, number: int) -> None:
    """A parquet file whose rows name files of the machine, or nothing."""
    from datasets import Dataset

    save(root.parent / "private.png")
    (root / "link.jpg").symlink_to(root.parent / "private.png")
    os.mkfifo(root / "pipe")
    good = {"bytes": (root.parent / "private.png").read_bytes(), "path": None}
    paths = ["/dev/zero", "/etc/passwd", "../private.png", "link.jpg", "pipe", "", None, "."]
    bad = rng.choice([None, *({"bytes": None, "path": path} for path in paths)])
    images = [good, good, good, bad] if number % 4 else [good] * 4
    Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}).to_parquet(root / "0.parquet")


def links_out(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    for name, target in (("x.png", "/dev/zero"), ("y.png", "/etc/passwd"), ("z.png", "/nowhere")):
        (root / "cat" / name).symlink_to(target)
    (root / "dog" / "folder").symlink_to(["/dev", "/etc", "/proc/self/fd", "/nowhere"][number % 4])


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


def damaged(root: Path, rng: random.Random, number: int) -> None:
    """Image files that end early, or with some bytes changed."""
    classes(root)
    for ending in ENDINGS:
        for copy in range(8):
            path = root / "dog" / f"{copy}.{ending}"
            save(path, copy)
            data = bytearray(path.read_bytes())
            for _ in range(rng.choice([1, 4, 20])):
                data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255])
            path.write_bytes(data[: rng.randrange(len(data))] if copy % 2 else data)


def other_formats(root: Path, rng: random.Random, number: int) -> None:
    classes(root)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    starts = [eps, b"%PDF-1.4\n", b"8BPS\0\1", b"icns\0\0\1\0", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"]
    starts += [b"GIF89a" + b"\xff" * 8, b"SIMPLE  =  T", b"\x0a\x05\x01\x08", b"#!/bin/sh\n", b""]
    for index, data in enumerate(starts):
        for ending in ENDINGS:
            (root / "cat" / f"{index}.{ending}").write_bytes(data + bytes(200 * (number % 2)))


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


KINDS: list[Callable[[Path, random.Random, int], Path | None]] = [
    *(pipes, rows, links_out, names, damaged, other_formats, tars),
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
