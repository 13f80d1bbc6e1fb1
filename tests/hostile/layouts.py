"""Data laid out in every way, opened as a data set: folders, splits, archives, links and pipes.

A layout is read or refused by a documented error. What is read has a class for each folder of
images, each image with the label of its folder; no image is in two splits; a tar of the folder
holds the same images. Nothing outside of the data is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfaug import cli
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.data.open import open_dataset

__all__ = ["KINDS", "case", "prepare"]

WARM = 28  # cases that run before memory is limited: they import much
HELD_OUT = {
    "train": ("test", "val"), "training": ("testing", "validation"), "Train": ("Test", "Valid"),
    "train2017": ("test2017", "val2017"), "seg_train": ("seg_test", "seg_val"),
    "Training set": ("Test set", "Validation set"), "TRAIN": ("TEST", "dev"),
    "train_images": ("test_images", "val_images"), "fold1": ("fold2", "fold3"),
}  # fmt: skip
WORDS = ("train", "training", "Train", "TRAIN")  # that tell a split; other names are refused
CLASSES = (
    "cat",
    "dog",
    "n01440764",
    "10",
    "9",
    "train_station",
    "test_tube",
    "Évora",
    "a b",
    "x.y",
)
NO_DATA = ("__MACOSX", ".git", ".ipynb_checkpoints", "empty")
ODD = (
    *(b"\x1b[2Jx", b"a\nb", b"\r\x08", b"\xff\xfe", b"--help", b"\xe2\x80\xae", b"x" * 250),
    *(b"'\"; rm", b"%s{0}", b"\xed\xa0\x80", b" ", b"~", b"\x1b]0;x\x07", b"..x"),
)


def prepare(folder: Path) -> None:
    """Import what commands import."""
    write_classes(folder / "good", ("cat", "dog"), 0)
    run_fit(folder / "good", folder / "flow")
    for number in range(WARM):
        case(folder, number)


def case(folder: Path, number: int) -> str:
    """Make a layout, open and read it in Python and with `nfaug fit`."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    root = folder / "layout"
    root.mkdir()
    (folder / "private.png").write_bytes(encoded(77))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = kind(root, rng)
    finally:
        shutil.rmtree(root)
    return f"{kind.__name__}: {outcome}"


def encoded(level: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (6, 6), level).save(data, "PNG")
    return data.getvalue()


def write_classes(root: Path, names: tuple[str, ...], start: int, count: int = 2) -> dict[str, int]:
    """Write images whose level tells which one each is; return the label of each by level."""
    found = {}
    for label, name in enumerate(names):
        for number in range(count):
            level = start + len(found)
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{number}.png").write_bytes(encoded(level))
            found[str(level)] = label
    return found


def opened(data: Any, split: str = "train") -> Images | None:
    """The data set, or None if it is refused by a documented error."""
    refused = ""
    try:
        return open_dataset(data, split=split, image_size=6, channels=1)
    except (ValueError, FileNotFoundError) as error:
        refused = str(error)
    assert len(refused.splitlines()) == 1
    return None


def by_level(data: Images) -> dict[int, str]:
    """The class of each image by its level."""
    images = decode(data, progress=False)
    labels = data.targets
    levels = [int(image.max()) for image in images]
    assert len(set(levels)) == len(levels), "an image is read twice"
    return {x: data.classes[y] for x, y in zip(levels, labels.tolist(), strict=True)}


def run_fit(data: Path, out: Path) -> int:
    """Fit the flow without weights to the data."""
    words = ["fit", "--checkpoint", "builtin:pixels", "--data", str(data), "--out", str(out)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = cli.main([*words, "--on-error", "skip", "--rank", "2", "--overwrite"])
    text = said.getvalue()
    assert code in (0, 2), (code, text[-300:])
    odd = [c for c in text if not c.isprintable() and c not in "\n\r\t"]
    assert not odd, f"control characters: {text[-300:]!a}"
    return code


# The kinds


def splits(root: Path, rng: random.Random) -> str:
    """Split folders of any name, with folders beside them that hold no data."""
    train = rng.choice(sorted(HELD_OUT))
    held_out = HELD_OUT[train][: rng.choice([1, 2])]
    names = tuple(rng.sample(CLASSES, rng.choice([2, 3])))
    home = root / rng.choice(["", "", "data", "outer/inner"])
    start = 0
    levels = {}
    for split in (train, *held_out):
        inner = home / split / rng.choice(["", "", split])
        found = write_classes(inner, names, start)
        levels[split] = {int(level): names[label] for level, label in found.items()}
        start += len(found)
    for place in rng.sample(NO_DATA, rng.randrange(3)):
        (home / place).mkdir()
        if place != "empty":
            (home / place / "._0.png").write_bytes(encoded(200))
    (home / "notes.txt").write_text("no image")
    for data in (root, packed(root, rng)):
        asked = rng.choice(["test", "val"]) if len(held_out) == 2 else "test"
        expected = held_out[1 if asked == "val" else 0]
        if train not in WORDS:
            assert opened(data) is None, "splits were taken for classes"
            assert opened(data, asked) is None, "splits were taken for classes"
            asked = expected
        found_train = opened(data, train)
        assert found_train is not None, "refused"
        assert by_level(found_train) == levels[train]
        found_test = opened(data, asked)
        assert found_test is not None, "refused"
        assert by_level(found_test) == levels[expected]
    return "read"


def packed(root: Path, rng: random.Random) -> Path:
    """A tar of the folder, beside it."""
    path = root.parent / "layout.tar"
    with tarfile.open(
        path, "w", format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    ) as tar:
        tar.add(root, arcname=rng.choice([".", "x"]))
    return path


def classes_alone(root: Path, rng: random.Random) -> str:
    """Class folders, some of whose names hold words for splits."""
    names = tuple(rng.sample(CLASSES, rng.choice([2, 4, 6])))
    found = write_classes(root, names, 0)
    data = opened(root)
    assert data is not None, "refused"
    kept = by_level(data)
    expected = {int(level): names[label] for level, label in found.items()}
    assert kept == expected
    assert opened(root, "test") is None
    return "read"


def one_of_two_kinds(root: Path, rng: random.Random) -> str:
    """Images, shards, parquet and IDX files beside each other."""
    kinds = rng.sample(["images", "tar", "parquet", "idx"], 2)
    place = root / rng.choice(["", "train"])
    place.mkdir(exist_ok=True)
    if "images" in kinds:
        write_classes(root / rng.choice(["", "train"]), ("cat", "dog"), 0)
    if "tar" in kinds:
        shard(place / "0.tar", [3, 4])
    if "parquet" in kinds:
        (place / "0.parquet").write_bytes(b"PAR1")
    if "idx" in kinds:
        (place / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + bytes(12))
    assert opened(root) is None, f"one of {kinds} was read"
    return "refused"


def shard(path: Path, levels: list[int]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, level in enumerate(levels):
            for name, data in ((f"{number}.png", encoded(level)), (f"{number}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def shards_of_splits(root: Path, rng: random.Random) -> str:
    """Shards whose names or folders tell splits, in one way or in several."""
    words = rng.sample(["train", "training", "test", "val", "valid", "part", "a/train", "b/x"], 3)
    for number, word in enumerate(words):
        file = root / f"{word}{rng.choice(['-0', '-00000-of-00001', '/0'])}.tar"
        file.parent.mkdir(parents=True, exist_ok=True)
        shard(file, [10 * number + 1, 10 * number + 2])
    read = {split: opened(root, split) for split in ("train", "val", "test")}
    for split, word in (("train", "train"), ("val", "val"), ("test", "test")):
        data = read[split]
        of_split = [number for number, name in enumerate(words) if word in name]
        if data is not None:
            kept = {level // 10 for level in by_level(data)}
            if split == "test" and not of_split:
                of_split = [number for number, name in enumerate(words) if "val" in name]
            assert kept == set(of_split), f"{split} of {words} is {kept}"
    return "read" if any(read.values()) else "refused"


def the_same_in_every_form(root: Path, rng: random.Random) -> str:
    """A folder, a tar and a .npz file of the same images."""
    names = ("cat", "dog", "eel")
    levels = [rng.randrange(250) for _ in range(6)]
    levels = [level + number for number, level in enumerate(sorted(levels))]
    labels = [0, 0, 1, 1, 2, 2]
    for number, (level, label) in enumerate(zip(levels, labels, strict=True)):
        file = root / "folder" / names[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(level % 256))
    with tarfile.open(root / "x.tar", "w") as tar:
        tar.add(root / "folder", arcname=".")
    images = np.stack([np.full((6, 6), level % 256, np.uint8) for level in levels])
    np.savez(root / "x.npz", images=images, labels=labels, classes=names)
    folder = open_dataset(root / "folder")
    expected = decode(folder, progress=False)
    targets = folder.targets
    for name in ("x.tar", "x.npz"):
        data = open_dataset(root / name)
        found = decode(data, progress=False)
        labels_found = data.targets
        assert data.classes == list(names)
        assert found.equal(expected)
        assert labels_found.equal(targets)
    return "read"


def pipes(root: Path, rng: random.Random) -> str:
    write_classes(root, ("cat", "dog"), 0)
    place = rng.choice(["cat/x.png", "x.tar", "x.npz", "x.parquet"])
    os.mkfifo(root / place)
    data = opened(root)
    assert data is not None
    assert len(data) == 4
    if place.startswith("x"):
        assert opened(root / place) is None
    return "read"


def links(root: Path, rng: random.Random) -> str:
    """Links to folders around, beside and far away, in chains and ladders, and to devices."""
    write_classes(root, ("cat", "dog"), 0)
    for target in rng.sample(["/dev/zero", "/etc/passwd", "/nowhere"], 2):
        (root / "cat" / f"{len(target)}.png").symlink_to(target)
    for step in range(rng.choice([1, 3, 14])):
        place = root / "dog" / str(step)
        place.mkdir()
        for name in "ab"[: rng.choice([1, 2])]:
            there = rng.choice([root / "dog" / str(step + 1), root, root / "dog", Path("/nowhere")])
            (place / name).symlink_to(there)
    data = opened(root)
    return "refused" if data is None else read_links(data)


def read_links(data: Images) -> str:
    try:
        images = decode(data, progress=False)
        labels = data.targets
    except ValueError:
        return "refused"
    # A link may lead to images that are read by another path, too.
    found = {
        (int(image.max()), label) for image, label in zip(images, labels.tolist(), strict=True)
    }
    assert {(0, 0), (1, 0), (2, 1), (3, 1)} <= found
    return "read"


def odd_names(root: Path, rng: random.Random) -> str:
    write_classes(root, ("cat", "dog"), 0)
    for name in rng.sample(ODD, 4):
        inner = os.path.join(os.fsencode(root), name)
        os.mkdir(inner)
        for ending in (b".png", b".jpg"):
            with open(os.path.join(inner, rng.choice(ODD)[:200] + ending), "wb") as file:
                file.write(encoded(9)[: rng.choice([None, 20])])
    code = run_fit(root, root.parent / "flow")
    return "fitted" if code == 0 else "refused"


def tars(root: Path, rng: random.Random) -> str:
    """Members that are links, devices or hidden, names upwards, and damaged headers."""
    write_classes(root / "in", ("cat", "dog"), 0)
    path = root / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        if rng.random() < 0.8:
            archive.add(root / "in", arcname=rng.choice([".", "x", "\x1b[2J", "../../x", "/x"]))
        member = tarfile.TarInfo(rng.choice(["cat/x.png", "../x.png", "cat/\x1b[31m.png", "dog"]))
        member.type = rng.choice([
            tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE,
        ])  # fmt: skip
        member.linkname = "/etc/passwd"
        member.pax_headers = {"comment": "x" * rng.choice([1, 10**6]), "GNU.sparse.realsize": "1"}
        archive.addfile(member)
    data = bytearray(path.read_bytes())
    if rng.random() < 0.7:
        at = rng.randrange(0, len(data) - 512, 512)
        sizes = [b"7" * 12, b"\x80" + b"\xff" * 11, b"\xff" * 12, b"x" * 12]
        sizes.append((-512 % 256**12).to_bytes(12, "big"))
        data[at + 124 : at + 136] = rng.choice(sizes)
        if rng.random() < 0.3:
            data[at + 156] = rng.choice(b"0xLgKS57")
        header = bytes(data[at : at + 148]) + b" " * 8 + bytes(data[at + 156 : at + 512])
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(data)
    found = opened(path)
    if found is not None:
        try:
            kept = by_level(found)
        except (ValueError, AssertionError):
            return "read in part"
        assert {*kept} <= {0, 1, 2, 3}
    run_fit(path, root.parent / "flow")
    return "refused" if found is None else "read"


def samplers(root: Path, rng: random.Random) -> str:
    """Loaders, whatever their sampler, are refused by a fit."""
    from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler

    import nfaug

    write_classes(root, ("cat", "dog"), 0)
    data = open_dataset(root)
    kinds: list[Any] = [None, [0, 1], SubsetRandomSampler([0, 1]), RandomSampler(data)]
    loader: Any = DataLoader(data, sampler=rng.choice(kinds))
    try:
        nfaug.fit("builtin:pixels", loader, progress=False)
    except ValueError:
        return "refused"
    raise AssertionError("a loader was fitted")


KINDS: list[Callable[[Path, random.Random], str]] = [
    *(splits, classes_alone, one_of_two_kinds, shards_of_splits, the_same_in_every_form),
    *(pipes, links, odd_names, tars, splits, shards_of_splits, tars, samplers),
]
