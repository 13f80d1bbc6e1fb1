"""Damaged banks, read and continued, and folders of other programs in the place of a bank.

A bank is refused by an error that names its folder, or gives each image its own label and a picture
of its size. No file that nfaug did not write is replaced or removed.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.nfa import checkpoint, write_images

from nfaug.bank import BankDataset, make_bank
from nfaug.data.open import open_dataset

from .checkpoints import HOSTILE, places

__all__ = ["KINDS", "case", "prepare"]

WARM = 26  # cases that run before memory is limited: they import much
NAMES = ("whole", "shards")
SETTINGS: dict[str, Any] = {"variants": 2, "batch_size": 8, "progress": False}
FOREIGN = {
    "manifest.json": '{"name": "app", "start_url": "/", "icons": [{"src": "labels.npy"}]}',
    "labels.npy": "mine",
    "variants.npy": "mine, too",
    "index.html": "<html></html>",
    "shard-00000-of-00001": None,
}


def prepare(folder: Path) -> None:
    """Make two banks of the same images, and read and continue them."""
    write_images(folder / "data", 8, train=8)
    data = open_dataset(folder / "data")
    make_bank(checkpoint(), data, folder / "whole", **SETTINGS)
    for number in range(2):
        make_bank(checkpoint(), data, folder / "shards", shard=(number, 2), **SETTINGS)
    for number in range(WARM):
        case(folder, number)


def case(folder: Path, number: int) -> str:
    """Damage a copy of a bank, and read it or make it again."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    name = rng.choice(NAMES)
    shutil.copytree(folder / name, copy)
    foreign = kind(copy, rng) or {}
    outcome = read(folder, copy)
    if rng.random() < 0.5:
        outcome += f", {make_again(folder, copy, name, rng)}"
    for path, content in foreign.items():
        assert path.read_bytes() == content, f"{path.name} was replaced"
    return f"{kind.__name__}: {outcome}"


def read(folder: Path, copy: Path) -> str:
    data = open_dataset(folder / "data")
    refused = ""
    try:
        bank = BankDataset(data, copy, p=1.0)
        items = [bank[index] for index in range(len(bank))]
    except (ValueError, OSError) as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1, refused
        assert len(refused) < 2000
        return "refused"
    assert [label for _, label in items] == data.targets.tolist()
    assert {image.size for image, _ in items} == {(8, 8)}
    return "read"


def make_again(folder: Path, copy: Path, name: str, rng: random.Random) -> str:
    """Continue the bank, or replace it."""
    options = dict(SETTINGS)
    if name == "shards":
        options["shard"] = (rng.randrange(2), 2)
    overwrite = rng.random() < 0.5
    data = open_dataset(folder / "data")
    refused = ""
    try:
        bank = make_bank(checkpoint(), data, copy, overwrite=overwrite, **options)
    except (ValueError, OSError) as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1, refused
        return "not made again"
    assert bank.manifest.done == bank.manifest.images
    return "made again"


# The kinds. They return files that are not the bank's, with their contents.


def file_of(copy: Path, rng: random.Random, pattern: str = "*.npy") -> Path:
    return rng.choice(sorted(copy.rglob(pattern)))


def truncated(copy: Path, rng: random.Random) -> None:
    file = file_of(copy, rng, "*.*")
    data = file.read_bytes()
    file.write_bytes(data[: rng.choice([0, 8, 60, 128, rng.randrange(len(data))])])


def flipped(copy: Path, rng: random.Random) -> None:
    """Flip bits of a header, or of the values."""
    file = file_of(copy, rng)
    data = bytearray(file.read_bytes())
    where = range(128) if rng.random() < 0.7 else range(len(data))
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.choice(where)] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def other_header(copy: Path, rng: random.Random) -> None:
    """A header with another shape, type or order, or one that is no literal."""
    file = file_of(copy, rng)
    data = file.read_bytes()
    shapes = ["()", "(1,)", "(24,)", "(10**12,)", "(-1,)", "(24, 2, 8, 8, 3)", "((((", "(2, 24)"]
    types = ["|u1", "|i1", "<i8", "|b1", "|O", "<f8", "|S9", "<U3", "[('x', '|O')]", "x" * 200]
    text = "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format(
        rng.choice(types), rng.choice(["False", "True", "None"]), rng.choice(shapes),
    )  # fmt: skip
    text = rng.choice([text, text, text, "{" * 500, "__import__('os').abort()", text[:-3], "\x00"])
    header = text.encode().ljust(117) + b"\n"
    version = rng.choice([b"\x01\x00", b"\x01\x00", b"\x03\x00", b"\xff\xff"])
    file.write_bytes(b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data[128:])


def hostile_value(copy: Path, rng: random.Random) -> None:
    """A value of a manifest becomes one of any type."""
    file = file_of(copy, rng, "manifest.json")
    values = json.loads(file.read_text())
    owner, key = rng.choice(list(places(values)))
    if rng.random() < 0.1 and isinstance(owner, dict):
        owner.pop(key)
    else:
        owner[key] = rng.choice(HOSTILE)
    file.write_text(json.dumps(values))


def hostile_text(copy: Path, rng: random.Random) -> None:
    file = file_of(copy, rng, "manifest.json")
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 5, 50])):
        data[rng.randrange(len(data))] = rng.choice(b'{}[]",:\\0-eE.\xff\x00 n')
    file.write_bytes(data)


def swapped(copy: Path, rng: random.Random) -> None:
    """A file of another bank, or under the name of another file."""
    source = file_of(copy.parent / rng.choice(NAMES), rng, "*.*")
    target = file_of(copy, rng, "*.*")
    shutil.copyfile(source, target.parent / rng.choice([source.name, target.name]))


def no_file(copy: Path, rng: random.Random) -> None:
    """A pipe, a folder, an endless device or nothing in the place of a file."""
    file = file_of(copy, rng, "*.*")
    file.unlink()
    rng.choice([os.mkfifo, os.mkdir, functools.partial(os.symlink, "/dev/zero"), str])(file)


def values_set(copy: Path, rng: random.Random) -> None:
    """The values of an array become the smallest, the largest, or noise."""
    file = file_of(copy, rng)
    data = file.read_bytes()
    size = len(data) - 128
    values = rng.choice([b"\0" * size, b"\xff" * size, b"\x7f" * size, rng.randbytes(size)])
    file.write_bytes(data[:128] + values)


def other_program(copy: Path, rng: random.Random) -> dict[Path, bytes]:
    """The folder is that of another program, whose files have names of a bank's."""
    shutil.rmtree(copy)
    copy.mkdir()
    for name in rng.sample(sorted(FOREIGN), 3):
        content = FOREIGN[name]
        file = copy / name if content else copy / name / "manifest.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content or FOREIGN["manifest.json"] or "")
    return {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}


def other_files(copy: Path, rng: random.Random) -> dict[Path, bytes]:
    """Files of other programs lie in the folder of the bank."""
    for name in ("notes.txt", "residuals.npy", "variants.npy"):
        if not (copy / name).exists() and rng.random() < 0.7:
            (copy / name).write_text("mine")
    return {file: b"mine" for file in copy.iterdir() if file.is_file() and _is_mine(file)}


def _is_mine(file: Path) -> bool:
    return file.stat().st_size == 4 and file.read_bytes() == b"mine"


KINDS: list[Callable[[Path, random.Random], dict[Path, bytes] | None]] = [
    *(truncated, flipped, other_header, hostile_value, hostile_text, swapped, no_file),
    *(values_set, other_program, other_files, other_header, hostile_value, flipped),
]
