"""Data that were once read wrongly: layouts of folders, archives, samplers."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ScheduledTransformDataset
from timm.data.loader import PrefetchLoader
from tools.images import png, save
from tools.libraries import needs
from tools.nfa import TensorImages, checkpoint
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import nfaug
from nfaug.bank import BankDataset, make_bank
from nfaug.compare.cells import Cells
from nfaug.data.batches import decode
from nfaug.data.classes import dataset_classes
from nfaug.data.open import open_dataset
from nfaug.fitting import FinishedClasses, FitConfig
from nfaug.integrations.timm import NFALoader


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_shard(path: Path, label: int = 0) -> Path:
    return write_tar(path, {"0.png": png(), "0.cls": b"%d" % label})


def levels(data: Any) -> list[int]:
    """The level of each image of one level."""
    return [int(image.max()) for image, _ in data]


# What a folder holds


@pytest.mark.parametrize(
    ("stray", "kinds"),
    [
        ("meta.parquet", ("images", "parquet")),
        ("archive.tar", ("images", "WebDataset")),
        ("train/cat/x.tar", ("images", "WebDataset")),
        ("train-images-idx3-ubyte.gz", ("images", "IDX")),
    ],
)
def test_a_stray_archive_beside_images(tmp_path: Path, stray: str, kinds: tuple[str, str]) -> None:
    """Break 19: it replaced the data set. The error names both kinds."""
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "1.png")
    (tmp_path / stray).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{kinds[0]} .*{kinds[1]}") as caught:
        open_dataset(tmp_path)
    assert stray in str(caught.value)


def test_shards_of_two_kinds(tmp_path: Path) -> None:
    """Break 33 (and 19): of a tar beside parquet files, the tar alone was read."""
    write_shard(tmp_path / "0.tar")
    (tmp_path / "0.parquet").touch()
    with pytest.raises(ValueError, match=r"0\.tar.*0\.parquet"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "0.tar")) == 1, "the path of a file says which"


def test_a_picture_beside_shards(tmp_path: Path) -> None:
    """Break 33 (and 19): which of the two is the data is not guessed."""
    write_shard(tmp_path / "0.tar")
    (tmp_path / "preview.png").write_bytes(png())
    with pytest.raises(ValueError, match=r"preview\.png"):
        open_dataset(tmp_path)


def write_splits(data: Path, *names: str) -> None:
    """A cat and a dog in each of these folders."""
    for seed, split in enumerate(names):
        for kind, name in enumerate(("cat", "dog")):
            save(data / split / name / f"{seed + 1}.png", kind + 2 * seed)


def packed(data: Path) -> Path:
    """A tar of a folder, beside it."""
    path = data.with_name(f"{data.name}.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(data, arcname=".")
    return path


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"), ("train", "dev"), ("trainset", "testset"), ("seg_train", "seg_test"),
        ("train2017", "val2017"), ("Training set", "Test set"), ("traindata", "testdata"),
        ("trainA", "testA"), ("imagesTr", "imagesTs"), ("fold1", "fold2"), ("trn", "tst"),
        ("labelled", "unlabelled"), ("Art", "Clipart"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tar", [False, True], ids=["folder", "tar"])
def test_split_folders_of_other_names(tmp_path: Path, train: str, test: str, tar: bool) -> None:
    """Breaks 43 and 89: they became two classes, and test images were trained on."""
    data = tmp_path / "data"
    write_splits(data, train, test)
    if tar:
        data = packed(data)
    if {train, test} <= {"train", "test", "dev", "trainset", "testset"}:
        assert open_dataset(data).paths == ["cat/1.png", "dog/1.png"]
        assert open_dataset(data, split="test").paths == ["cat/2.png", "dog/2.png"]
        return
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="splits") as caught:
            open_dataset(data, split=split)
        assert repr(train) in str(caught.value)
        assert repr(test) in str(caught.value)
    assert open_dataset(data, split=train).paths == ["cat/1.png", "dog/1.png"]
    assert open_dataset(data, split=test).paths == ["cat/2.png", "dog/2.png"]
    if not tar:
        assert open_dataset(data / test).classes == ["cat", "dog"]


@pytest.mark.parametrize("wrapper", ["", "archive", "archive/deep"])
@pytest.mark.parametrize(
    "paths",
    [
        ["a/cat/1.png", "a/dog/1.png", "a/eel/1.png", "b/cat/2.png", "b/dog/2.png"],
        ["a/cat/1.png", "a/dog/1.png", "b/dog/2.png", "b/eel/2.png", "docs/figures/3.png"],
        ["a/a/cat/1.png", "a/a/dog/1.png", "b/x/y/cat/2.png", "b/x/y/dog/2.png"],
        ["a/cat/1.png", "a/dog/1.png", "b/2.png", "b/3.png"],
        ["a/images/1.png", "a/masks/1.png", "b/images/2.png", "b/masks/2.png"],
    ],
)
def test_folders_that_look_like_splits(tmp_path: Path, paths: list[str], wrapper: str) -> None:
    """Break 89: held-out classes that are missing, images without labels, folders between."""
    for seed, path in enumerate(paths):
        save(tmp_path / wrapper / path, seed)
    with pytest.raises(ValueError, match="'a' and 'b', which look like splits"):
        open_dataset(tmp_path)
    inner = "a/a/" if paths[0].startswith("a/a/") else "a/"
    of_a = [path.removeprefix(inner) for path in paths if path.startswith("a/")]
    assert open_dataset(tmp_path, split="a").paths == of_a
    assert len(open_dataset(tmp_path, labels=False)) == len(paths)


def test_a_folder_train_beside_others_that_look_like_splits(tmp_path: Path) -> None:
    """Break 89: `train` may be a class beside others, so it is not read as the only split."""
    write_splits(tmp_path, "train", "holdout")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="or split='holdout'"):
            open_dataset(tmp_path, split=split)
    assert open_dataset(tmp_path, split="holdout").paths == ["cat/2.png", "dog/2.png"]
    assert open_dataset(tmp_path / "train").classes == ["cat", "dog"]


def test_classes_that_look_like_splits_in_a_split(tmp_path: Path) -> None:
    """Break 89: folders in a folder of a split are classes, whatever they hold."""
    write_splits(tmp_path / "train", "left", "right")
    found = open_dataset(tmp_path)
    assert found.classes == ["left", "right"]
    assert found.paths == ["left/cat/1.png", "left/dog/1.png", "right/cat/2.png", "right/dog/2.png"]
    save(tmp_path / "cells" / "a" / "patient1" / "1.png")  # classes with folders of their own
    save(tmp_path / "cells" / "b" / "patient2" / "1.png")
    save(tmp_path / "cells" / "b" / "patient3" / "1.png")
    assert open_dataset(tmp_path / "cells").classes == ["a", "b"]


def test_a_split_folder_inside_itself(tmp_path: Path) -> None:
    """Break 43: seg_train/seg_train, beside images for which there are no labels."""
    for seed, name in enumerate(("cat", "dog")):
        save(tmp_path / "seg_train" / "seg_train" / name / "1.png", seed)
        save(tmp_path / "seg_test" / "seg_test" / name / "2.png", seed + 2)
    save(tmp_path / "seg_pred" / "seg_pred" / "3.png", 4)
    with pytest.raises(ValueError, match=r"'seg_t.*splits"):
        open_dataset(tmp_path)
    for data, split in ((tmp_path, "seg_train"), (tmp_path / "seg_train", "train")):
        assert open_dataset(data, split=split).paths == ["cat/1.png", "dog/1.png"]
    assert open_dataset(tmp_path, split="seg_test").paths == ["cat/2.png", "dog/2.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["boat", "test_tube", "train_station"],
        ["steam train", "test tube"],
        ["freight train", "passenger train"],
        ["test_neg", "test_pos"],
        ["val_a", "val_b"],
    ],
)
def test_classes_whose_names_look_like_splits(tmp_path: Path, names: list[str]) -> None:
    """Break 43: they are classes, with a warning if their names tell two splits."""
    for seed, name in enumerate(names):
        save(tmp_path / "deep" / name / "session" / "1.png", seed)
        save(tmp_path / "in" / "train" / name / "session" / "1.png", seed)
        save(tmp_path / "flat" / name / "1.png", seed)
    with pytest.raises(ValueError, match="look like splits"):
        open_dataset(tmp_path / "deep")
    both = any("train" in name for name in names) and any("test" in name for name in names)
    for data in ("in", "flat"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = open_dataset(tmp_path / data)
        assert found.classes == names
        assert [str(warning.message).count("splits") > 0 for warning in caught] == [True] * both


@pytest.mark.parametrize(
    ("folders", "split", "read"),
    [
        (["train", "val", "test", "test_hidden"], "test", "test"),
        (["train", "train_aug", "val"], "train", "train"),
        (["Training", "Test", "test-multiple"], "test", "Test"),
        (["val_x", "test_x", "train_x", "docs"], "val", ""),
    ],
)
def test_folders_beside_those_of_plain_names(
    tmp_path: Path, folders: list[str], split: str, read: str
) -> None:
    """Break 43: plain names are the splits, and others are named."""
    write_splits(tmp_path, *folders)
    if not read:
        with pytest.raises(ValueError, match="look like splits"):
            open_dataset(tmp_path, split=split)
        return
    with pytest.warns(UserWarning, match="not read"):
        found = open_dataset(tmp_path, split=split)
    assert Path(found.name(0)).parents[1].name == read


@pytest.mark.parametrize("seed", ["0", "2"])
def test_two_families_of_splits(tmp_path: Path, seed: str) -> None:
    """Break 43: which of the two was read depended on the hash seed of the process."""
    names = ("train_images", "val_images", "train_masks", "val_masks", "docs")
    for name in names:
        save(tmp_path / name / "cat" / "1.png")
    code = "import sys; from nfaug.data.open import open_dataset as f; f(sys.argv[1])"
    words = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "'docs' and 'train_images', which look like splits" in ran.stderr
    with pytest.raises(ValueError, match="'docs' and 'train_images'"):
        open_dataset(tmp_path)


def test_the_years_of_splits(tmp_path: Path) -> None:
    """Break 43: held-out images had the classes of another year's training images."""
    for name in ("train2014", "val2014", "train2017", "val2017"):
        for kind in ("cat", "dog") if "2014" in name else ("dog", "emu"):
            save(tmp_path / name / kind / "1.png")
    assert open_dataset(tmp_path, split="val2017").classes == ["dog", "emu"]
    with pytest.raises(ValueError, match="'train2014' and"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "split"),
    [("train", "training", "train"), ("val", "valid", "val"), ("val", "valid", "test")],
)
def test_two_folders_of_one_split(tmp_path: Path, one: str, other: str, split: str) -> None:
    """Break 43: half of the images was read."""
    for folder in {"train", one, other}:
        for name in ("cat", "dog"):
            save(tmp_path / folder / name / "1.png")
    with pytest.raises(ValueError, match=f"{one!r} and {other!r}"):
        open_dataset(tmp_path, split=split)


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ("part-0.tar", "training-1.tar", ("part-0.tar", "training-1.tar")),
        ("part-0.tar", "val-0.tar", ("val-0.tar", "part-0.tar")),
        ("train-0.tar", "training-1.tar", ("'train'", "'training'")),
        ("a/train-0.tar", "b/train-0.tar", ("'a'", "'b'")),
        ("0.tar", "a/1.tar", ("'.'", "'a'")),
    ],
)
def test_shards_that_may_be_of_different_data(
    tmp_path: Path, one: str, other: str, named: tuple[str, str]
) -> None:
    """Break 43: half was read. Now both are named."""
    write_shard(tmp_path / one)
    write_shard(tmp_path / other)
    with pytest.raises(ValueError, match=named[0]) as caught:
        open_dataset(tmp_path)
    assert named[1] in str(caught.value)


def test_a_part_of_the_shards(tmp_path: Path) -> None:
    """Break 43: one of five shards was read without a word, as an interrupted download leaves."""
    write_shard(tmp_path / "train-00000-of-00005.tar")
    with pytest.warns(UserWarning, match="1 of 5"):
        assert len(open_dataset(tmp_path)) == 1


@pytest.mark.parametrize("stray", ["__MACOSX/cat/1.png", ".cache/x/1.png", "empty"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_folders_without_data(tmp_path: Path, stray: str, packed: bool) -> None:
    """Break 63: they merged the splits, or counted as a class."""
    data = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            save(data / split / name / "1.png")
    for root in (data, data / "train"):
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        if "." in stray:
            save(root / stray)
        else:
            (root / stray).mkdir()
    if packed:
        with tarfile.open(tmp_path / "data.tar", "w") as archive:
            archive.add(data, arcname=".")
        data = tmp_path / "data.tar"
    for split in ("train", "val"):
        found = open_dataset(data, split=split)
        assert (found.classes, len(found)) == (["cat", "dog"], 2)


@pytest.mark.timeout(30)
def test_a_ladder_of_links(tmp_path: Path) -> None:
    """Break 37 (and 8): each step of two links doubled the time."""
    root = tmp_path / "0"
    for step in range(14):
        (tmp_path / str(step)).mkdir()
    for step in range(13):
        for name in ("a", "b"):
            (tmp_path / str(step) / name).symlink_to(tmp_path / str(step + 1))
    save(tmp_path / "13" / "1.png")
    with pytest.raises(ValueError, match="over 100"):
        open_dataset(root)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("place", ["cat/x.png", "x.tar", "x.npz", "x.parquet"])
def test_a_pipe_among_the_data(tmp_path: Path, place: str) -> None:
    """Break 8: opening it waited for ever."""
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png")
    os.mkfifo(tmp_path / place)
    assert len(decode(open_dataset(tmp_path))) == 2
    if place.startswith("x"):
        with pytest.raises(ValueError, match="no images"):
            open_dataset(tmp_path / place)


# Archives


@pytest.mark.parametrize("path", ["/etc/hostname", "../private.png", "link.png", "inside.png"])
def test_a_row_that_names_a_file(tmp_path: Path, path: str) -> None:
    """Break 20: it read any file of the machine. An image is pixels, never a path to them."""
    Image.new("L", (4, 4)).save(tmp_path / "inside.png")
    for row in ({"bytes": None, "path": path}, str(tmp_path / path), path):
        for item in ({"image": row, "label": 0}, (row, 0)):
            with pytest.raises(ValueError, match=r"image 0 .*PIL image"):
                nfaug.fit("builtin:pixels", [item, item], progress=False)  # type: ignore[arg-type]


def test_a_row_of_datasets_that_names_a_file(tmp_path: Path) -> None:
    """Break 20: the package datasets decodes rows; without that they are no images."""
    datasets = needs("datasets")
    Image.new("L", (4, 4)).save(tmp_path / "inside.png")
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.Value("int64")}
    )
    columns = {"image": [{"bytes": None, "path": str(tmp_path / "inside.png")}], "label": [0]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    with pytest.raises(ValueError, match="PIL image"):
        open_dataset(rows)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"5"], ids=["file", "pax", "long", "folder"])
def test_a_member_of_a_tar_with_a_size_below_0(tmp_path: Path, kind: bytes) -> None:
    """Break 40: Python 3.11 read the same member without end."""
    tar = write_tar(tmp_path / "x.tar", {"cat/1.png": png(), "dog/1.png": png()})
    data = bytearray(tar.read_bytes())
    at = data.index(b"dog/1.png")
    data[at + 124 : at + 136] = (-512 % 256**12).to_bytes(12, "big")  # base 256
    data[at + 156 : at + 157] = kind
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged.*-512"):
        open_dataset(tar)


@pytest.mark.timeout(30)
def test_a_pax_header_with_a_size_below_0(tmp_path: Path) -> None:
    """Break 40: the size may also come from an extended header."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("cat/1.png")
        member.pax_headers = {"size": "-512"}
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"damaged.*-512"):
        open_dataset(path)


def resigned(data: bytearray, at: int = 0) -> bytes:
    """A tar with the checksum that belongs to the header at this place."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def test_extended_headers_of_any_size_and_number(tmp_path: Path) -> None:
    """Break 40: one of a gigabyte was read at once, and thousands of them are no end."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("cat/1.png")
        member.pax_headers = {"comment": "x"}
        archive.addfile(member)
    small = bytearray(path.read_bytes()[:1024])
    large = bytearray(path.read_bytes())
    large[124:136] = b"%011o\0" % 2**30
    path.write_bytes(resigned(large))
    with pytest.raises(ValueError, match=r"damaged.*1073741824"):
        open_dataset(path)
    path.write_bytes(bytes(small) * 3000)
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(path)


def npz_bomb(path: Path) -> Path:
    """100 MB of zeros in 100 kB."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 300, 340), }".ljust(117)
    start = b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", start + bytes(1000 * 300 * 340))
    return path


def test_a_small_archive_of_a_large_array(tmp_path: Path) -> None:
    """Break 42: 3 MB held 3 GB. What a file unpacks to is known from its header."""
    data = npz_bomb(tmp_path / "x.npz")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"unpacks .*102000"):
            open_dataset(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10**7


@pytest.mark.parametrize("again", [["0.cls"], ["0.png", "0.cls"], ["0.PNG"]])
def test_keys_that_repeat_in_a_shard(tmp_path: Path, again: list[str]) -> None:
    """Break 23: they were one sample with the label of the last one."""
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        for name in ["0.png", "0.cls", "1.png", "1.cls", *again]:
            content = png() if "png" in name.lower() else b"1"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match="twice"):
        open_dataset(path)


def test_a_long_label_in_a_shard(tmp_path: Path) -> None:
    """Break 62: the first 18 digits were taken for the label."""
    path = write_tar(tmp_path / "0.tar", {"0.png": png(), "0.cls": b"0" * 18 + b"7"})
    with pytest.raises(ValueError, match="19 bytes"):
        open_dataset(path)


# What tells data apart


def test_other_images_of_the_same_names_and_sizes(tmp_path: Path) -> None:
    """Break 12: the fingerprint covered names and sizes, not content."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.bmp").write_bytes(_bmp(10))
    before = open_dataset(tmp_path).fingerprint()
    file = tmp_path / "dog" / "1.bmp"
    size = file.stat().st_size
    file.write_bytes(_bmp(20))
    assert file.stat().st_size == size
    assert open_dataset(tmp_path).fingerprint() != before


def _bmp(level: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 4), level).save(data, "BMP")
    return data.getvalue()


# Names of classes


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """Images of the level of their label, with whatever attributes a test gives the data set."""

    def __init__(self, labels: list[int], **attributes: Any) -> None:
        self.targets = labels
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 4, 4), self.targets[index], dtype=torch.uint8), self.targets[index]


class Turned(Dataset[tuple[torch.Tensor, int]]):
    """A wrapper that counts classes from the end."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.dataset[index]
        return image, 2 - label


class Delegating(Turned):
    """It also shows the attributes of the data set inside."""

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class TurnedSubset(Subset[tuple[torch.Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = super().__getitem__(index)
        return image, 2 - label

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [self[index] for index in indices]


class TurnedInside(Pairs):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = super().__getitem__(index)
        return image, 2 - label


ABC = ["a", "b", "c"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: Turned(data),
        lambda data: Delegating(data),
        lambda data: TurnedSubset(data, [0, 1, 2, 3]),
        lambda data: Subset(Turned(data), [0, 1, 2, 3]),
        lambda data: ConcatDataset([data, Turned(data)]),
        lambda data: TurnedInside([2, 1, 0, 0], classes=ABC),
        lambda data: ConcatDataset([TurnedInside([2, 1, 0, 0], classes=ABC), data]),
        lambda data: Pairs([0, 1, 2, 2], classes=ABC, target_transform=lambda label: label),
    ],
)
def test_names_belong_to_the_labels_of_their_data_set(wrap: Any) -> None:
    """Break 88: names of the data set inside were kept for labels that a wrapper had changed."""
    data = Pairs([2, 1, 0, 0], classes=ABC)
    found = open_dataset(wrap(data), image_size=4, channels=1)
    assert found.classes == ["0", "1", "2"]
    assert found.targets[:4].tolist() == [wrap(data)[index][1] for index in range(4)]
    named = open_dataset(wrap(data), image_size=4, channels=1, classes=ABC)
    assert named.classes == ABC


def test_names_of_an_image_folder_with_a_target_transform(tmp_path: Path) -> None:
    """Break 88: class "a" had the images of class "c", and `check_classes` passed."""
    for seed, name in enumerate(ABC):
        for number in range(3):
            save(tmp_path / name / f"{number}.png", seed + 3 * number)
    plain, turned = ImageFolder(tmp_path), ImageFolder(tmp_path, target_transform=lambda y: 2 - y)
    nfa = nfaug.NFAugment(nfaug.fit("builtin:pixels", plain, progress=False))
    nfa.check_classes(torch.utils.data.random_split(plain, [5, 4])[0])
    for data in (turned, Turned(plain), ConcatDataset([plain, turned])):
        assert open_dataset(data, image_size=4).classes == ["0", "1", "2"]
        with pytest.raises(ValueError, match="target_transform"):
            nfa.check_classes(data)


def test_names_of_parts_that_are_joined() -> None:
    """Break 88: those of the first part were taken, and dogs were mixed with cats."""
    one, other = Pairs([0, 1], classes=["cat", "dog"]), Pairs([1, 0], classes=["bee", "cat"])
    joined: Any = ConcatDataset([one, other])
    for look in (open_dataset, dataset_classes, nfaug.NFAugment(checkpoint()).check_classes):
        with pytest.raises(ValueError, match=r"'cat' .*'bee'"):
            look(joined)
    assert open_dataset(joined, classes=["first", "second"]).classes == ["first", "second"]
    same: Any = ConcatDataset([one, Subset(ConcatDataset([one, one]), [3, 0])])
    assert open_dataset(same).classes == ["cat", "dog"]
    assert open_dataset(same).targets.tolist() == [0, 1, 1, 0]
    assert dataset_classes(ConcatDataset([one, Pairs([0, 1])])) is None


def test_names_through_the_wrappers_that_keep_labels(tmp_path: Path) -> None:
    """Break 88: a bank's data set, and timm's of several sizes, still have names to compare."""
    data = Pairs([0, 1, 2] * 3, classes=["cat", "dog", "eel"])
    made = make_bank(
        nfaug.fit("builtin:pixels", data, progress=False), data, tmp_path / "bank", noise=0.1
    )
    assert dataset_classes(BankDataset(Subset(data, range(9)), made)) == ["cat", "dog", "eel"]
    other = Pairs([0, 1, 2], classes=["cat", "eel", "dog"])
    sizes: Any = ScheduledTransformDataset(other, [torch.nn.Identity()])
    with pytest.raises(ValueError, match="another order"):
        NFALoader(DataLoader(sizes), nfaug.NFAugment(checkpoint()))  # type: ignore[arg-type]


# Normalization


class AddGaussianNoise:
    """As in many tutorials: a mean and a std, and no normalization."""

    def __init__(self, mean: float = 0.0, std: float = 0.05) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image + torch.randn_like(image) * self.std + self.mean).clamp(0, 1)


class Normalize(AddGaussianNoise):
    """The name alone makes no normalization."""


class Brighter(Turned):
    """A wrapper that returns images in [0, 1] of a normalized data set."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.dataset[index]
        return image * 0.5 + 0.5, label


class DelegatingBrighter(Brighter, Delegating):
    pass


HALF = v2.Normalize([0.5], [0.5])
UNDONE = v2.Normalize([-1.0], [2.0])
FLOATS = v2.ToDtype(torch.float32, scale=True)


class Gray(Pairs):
    """Images of the levels 0, 51, 102, ..., with a transform."""

    def __init__(self, transform: Any) -> None:
        super().__init__([0, 1, 2, 3, 4, 5], transform=transform)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(torch.full((1, 4, 4), 51 * index, dtype=torch.uint8)), index


@pytest.mark.parametrize(
    ("data", "mean"),
    [
        (Gray(v2.Compose([FLOATS, AddGaussianNoise(0.0, 0.0)])), None),
        (Gray(v2.Compose([FLOATS, Normalize(0.0, 0.0)])), None),
        (Gray(v2.Compose([FLOATS, HALF, UNDONE])), None),
        (Gray(v2.Compose([FLOATS, HALF, v2.Lambda(lambda x: x * 0.5 + 0.5)])), None),
        (Gray(v2.Compose([FLOATS, v2.RandomApply([HALF], p=0.0)])), None),
        (Brighter(Gray(v2.Compose([FLOATS, HALF]))), None),
        (DelegatingBrighter(Gray(v2.Compose([FLOATS, HALF]))), None),
        (Subset(Brighter(Gray(v2.Compose([FLOATS, HALF]))), range(6)), None),
        (Gray(v2.Compose([FLOATS, v2.Compose([HALF])])), 0.5),
        (Gray(torch.nn.Sequential(FLOATS, transforms.Normalize(0.5, 0.5))), 0.5),
        (Gray(v2.Compose([FLOATS, HALF, v2.RandomErasing(0.0), v2.ToPureTensor()])), 0.5),
        (Subset(Gray(v2.Compose([FLOATS, HALF])), range(6)), 0.5),
        (ConcatDataset([Subset(Gray(v2.Compose([FLOATS, HALF])), range(6))]), 0.5),
    ],
)
def test_what_is_undone_as_a_normalization(data: Any, mean: float | None) -> None:
    """Break 87: noise with a mean and a std was, and a wrapper's [0, 1] was undone once more."""
    assert levels(open_dataset(data, channels=1, image_size=4)) == [0, 51, 102, 153, 204, 255]
    nfa = nfaug.NFAugment(checkpoint(channels=1))
    NFALoader(DataLoader(data), nfa)
    assert nfa.normalization.mean == (None if mean is None else (mean,))


def test_two_normalizations_in_one_data_set() -> None:
    """Break 87: those of the first part were undone in both."""
    parts = [Gray(v2.Compose([FLOATS, v2.Normalize([mean], [0.5])])) for mean in (0.5, 0.4)]
    with pytest.raises(ValueError, match="mean="):
        open_dataset(ConcatDataset(parts))


def test_noise_does_not_darken_a_fit(tmp_path: Path) -> None:
    """Break 87: a fit saw images of mean 6 in place of 125."""
    for seed, name in enumerate(("cat", "dog")):
        for number in range(3):
            save(tmp_path / name / f"{number}.png", seed + 2 * number)
    noisy = transforms.Compose([transforms.ToTensor(), AddGaussianNoise()])
    fits = [
        nfaug.fit("builtin:pixels", ImageFolder(tmp_path, transform), progress=False)
        for transform in (None, noisy)
    ]
    means = [float(fitted.pca.mean.mean()) for fitted in fits if fitted.pca is not None]
    assert means[1] == pytest.approx(means[0], abs=0.02)


# Samplers


SAMPLERS = {
    "list": lambda n: [0, 1, 2],
    "subset": lambda n: SubsetRandomSampler([0, 1, 2]),
    "weights": lambda n: WeightedRandomSampler([1.0] * 3 + [0.0] * (n - 3), 6),
    "own": lambda n: iter([0, 1, 2]),
}


@pytest.mark.parametrize("name", [*SAMPLERS, "batches", "all", "timm"])
def test_a_loader_in_place_of_a_data_set(tiny_images: TensorImages, name: str) -> None:
    """Break 31: a fit took all images of its data set, whatever its sampler drew."""
    dataset: Any = tiny_images
    if name == "timm":
        loader: Any = PrefetchLoader(DataLoader(dataset), device=torch.device("cpu"))
    elif name == "batches":
        batches = BatchSampler(SubsetRandomSampler([0, 1, 2]), 2, drop_last=False)
        loader = DataLoader(dataset, batch_sampler=batches)
    elif name == "all":
        loader = DataLoader(dataset)
    else:
        loader = DataLoader(dataset, sampler=SAMPLERS[name](len(tiny_images)))
    with pytest.raises(ValueError, match="Subset"):
        nfaug.fit("builtin:pixels", loader, progress=False)  # type: ignore[arg-type]


def test_the_part_of_a_subset_is_fitted(tiny_images: TensorImages) -> None:
    """Break 31: the way that the error names gives the images of the part alone."""
    part = Subset(tiny_images, [0, 1, 2, 3, 4, 5])
    fitted = nfaug.fit("builtin:pixels", part, rank=1, progress=False)
    assert fitted.config.gaussians["images"] == 6


def test_a_finished_class_is_known_by_all_of_its_images(tmp_path: Path) -> None:
    """Break 91: of a class of many, 16 images were compared, so that others could be replaced."""
    labels = torch.tensor([0] * 40 + [*range(1, 100)])  # the more classes, the fewer of each
    pixels = torch.randint(256, (len(labels), 1, 4, 4), dtype=torch.uint8)
    images = TensorImages(pixels, labels)
    flow = nfaug.load("builtin:pixels").flow.with_shape(1, (4, 4))
    rows = torch.arange(40)

    def file() -> Path:
        return FinishedClasses(tmp_path, flow, images, FitConfig()).file(0, rows)

    before = file()
    assert file() == before
    for row in range(40):
        pixels[row, 0, 0, 0] += 1
        assert file() != before, row
        pixels[row, 0, 0, 0] -= 1
    assert file() == before


# What lies beside images, or in a form of its own. A row: the files, and how many images are read,
# or else the words of an error; and the words of a warning.

JPEG = io.BytesIO()
Image.new("L", (4, 4)).save(JPEG, "JPEG")
TGA = b"\0\0\2" + bytes(9) + b"\4\0\4\0\x18\0" + bytes(48)
PAIR = {"cat/1.png": png(), "dog/2.png": png()}
SHARD = {"0.cls": b"0", "0.png": png()}
BESIDE: list[tuple[str, dict[str, bytes | None], int | str, str]] = [
    ("another ending", {**PAIR, "cat/3.jfif": JPEG.getvalue()}, 3, ""),
    ("another ending", {**PAIR, "cat/3.jpe": JPEG.getvalue()}, 3, ""),
    ("no ending", {**PAIR, "cat/3": png()}, 3, ""),
    ("text", {**PAIR, "cat/notes": b"r\xc3\xa9sum\xc3\xa9", "labels.csv": b"1,cat"}, 2, ""),
    ("annotations", {**PAIR, "cat/1.json": b"{}", "xml/1.xml": b"<a/>"}, 2, ""),
    ("of a system", {**PAIR, "@eaDir/1.png": png(), "Thumbs.db": b"\0\1", "._1": b"\0"}, 2, ""),
    ("not decoded", {**PAIR, "cat/3.tga": TGA}, 2, r"1 files .* 'cat/3\.tga'"),
    ("not decoded", {**PAIR, "model.bin": b"\0\1\2"}, 2, r"1 files .* 'model\.bin'"),
    ("a class of no images", {**PAIR, "cow/3.tga": TGA}, r"cow.*beside the classes", "1 files"),
    ("an empty folder", {**PAIR, "cow/": None}, 2, ""),
]


@pytest.mark.parametrize("tar", [False, True], ids=["folder", "tar"])
@pytest.mark.parametrize(("what", "files", "found", "warning"), BESIDE)
def test_all_that_lies_in_the_data_is_read_or_said(
    tmp_path: Path,
    what: str,
    files: dict[str, bytes | None],
    found: int | str,
    warning: str,
    tar: bool,
) -> None:
    """Break 113: images of other endings, and classes without one, were left out silently."""
    data = tmp_path / "data"
    for name, content in files.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
    if tar:
        data = packed(data)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if isinstance(found, str):
            with pytest.raises(ValueError, match=found):
                open_dataset(data)
        else:
            images = decode(open_dataset(data), progress=False)
            assert len(images) == found
    texts = [str(each.message) for each in said if "not read" in str(each.message)]
    assert len(texts) == bool(warning)
    assert re.search(warning, "".join(texts))


def linked(path: Path) -> None:
    """A shard whose second image is a link to the first one."""
    write_tar(path, {**SHARD, "1.cls": b"0"})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(link)


def twice(path: Path) -> None:
    """Two tars in one file, as `cat` makes it."""
    write_tar(path, SHARD)
    path.write_bytes(2 * path.read_bytes())


TARS: list[tuple[str, Any, int | str]] = [
    ("two tars", twice, "more than one tar"),
    ("a link", linked, r"1\.png .* link"),
    ("a line break", {"a\nb/0.cls": b"0", "a\nb/0.png": png()}, 1),
    ("another ending", {"0.cls": b"0", "0.jfif": JPEG.getvalue()}, 1),
    ("no image", {"0.cls": b"0", "0.tga": TGA}, "one image"),
    ("text beside it", {**SHARD, "README": b"a shard"}, 1),
]


@pytest.mark.parametrize(("what", "made", "found"), TARS)
def test_all_that_lies_in_a_shard_is_read_or_said(
    tmp_path: Path, what: str, made: Any, found: int | str
) -> None:
    """Break 113: members of a shard that are links, and what lies behind its end, were dropped."""
    path = tmp_path / "0.tar"
    if isinstance(made, dict):
        write_tar(path, made)
    else:
        made(path)
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            open_dataset(path)
    else:
        assert len(open_dataset(path)) == found


def test_a_name_in_two_spellings(tmp_path: Path) -> None:
    """Break 117: an accent of its own and one in a letter made two classes of one name."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_splits(tmp_path / "data", "train", "test")
    for folder, name in (
        (f"train/{composed}", "1"),
        (f"train/{apart}", "2"),
        (f"test/{apart}", "3"),
    ):
        save(tmp_path / "data" / folder / f"{name}.png")
    train = open_dataset(tmp_path / "data")
    assert train.classes == [composed, "cat", "dog"]
    assert train.targets.tolist().count(0) == 2
    assert open_dataset(tmp_path / "data", split="test").classes == train.classes


NAMES = [
    ["crane", "crane", "crane (0)"],
    ["a", "a", "a (1)", "a (0)"],
    ["a (1)", "a", "a", "a (2)"],
]


@pytest.mark.parametrize("names", NAMES)
def test_names_that_numbers_would_repeat(names: list[str]) -> None:
    """Break 118: a number behind a name made the name of another class."""
    unique = dataset_classes(names)
    assert unique is not None
    assert len(set(unique)) == len(names)
    assert dataset_classes(unique) == unique


SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("a side of 0", {"images": np.zeros((2, 0, 4), np.uint8), "labels": [0, 1]}),
    ("a side of 0", {"images": np.zeros((2, 3, 4, 0), np.uint8), "labels": [0, 1]}),
    ("no images", {"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}),
    ("labels of two columns", {"images": np.zeros((4, 4, 4), np.uint8), "labels": [[0, 1]] * 2}),
    ("classes of two columns", {"classes": [["a", "b"], ["c", "d"]]}),
    ("classes of floats", {"classes": [0.5, 1.5]}),
    ("one name for all", {"classes": "cat"}),
]


@pytest.mark.parametrize(("what", "arrays"), SHAPES)
def test_arrays_of_other_shapes(tmp_path: Path, what: str, arrays: dict[str, Any]) -> None:
    """Break 120: a side of 0 divided by zero, and rows of names became names."""
    good = {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 1])}
    np.savez(tmp_path / "data.npz", **{**good, **arrays})
    with pytest.raises(ValueError, match=r"data\.npz"):
        open_dataset(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **good)
    assert len(open_dataset(tmp_path / "data.npz")) == 2


@pytest.mark.parametrize(
    "rows", [[0.9, 1.9], [True, False], ["0", "1"], torch.tensor([0.5]), [[0, 1]]]
)
def test_rows_of_a_subset_that_are_no_whole_numbers(rows: Any) -> None:
    """Break 122: rows 0.9 and 1.9 of a Subset became 0 and 1."""
    images = open_dataset("digits", per_class=1)
    assert len(open_dataset(Subset(images, [0, 1]))) == 2
    with pytest.raises(ValueError, match="indices of a Subset must be whole numbers"):
        open_dataset(Subset(images, rows))


@pytest.mark.parametrize("digits", ["9" * 100, "0" * 5000 + "7"])
def test_names_of_many_digits(tmp_path: Path, digits: str) -> None:
    """Break 122: 5,000 digits in the name of a tar's member, which Python reads as no number."""
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for name in (f"a/{digits}.png", "a/10.png", "a/9.png", "b/1.png"):
            member = tarfile.TarInfo(name)
            content = png()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    paths = open_dataset(tmp_path / "data.tar").paths
    assert paths is not None
    assert paths[-1] == "b/1.png"
    numbers = [int(path[2:-4][-200:]) for path in paths[:-1]]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\v", "\f", "\x1c"])
def test_characters_that_only_some_take_for_the_end_of_a_line(
    tmp_path: Path, character: str
) -> None:
    """Break 121: they split a class name in two, and labels shifted."""
    write_shard(tmp_path / "0.tar", label=1)
    (tmp_path / "classnames.txt").write_text(f"a{character}b\nc\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no image of 1"):  # of label 0
        nfaug.fit("builtin:pixels", open_dataset(tmp_path), progress=False)
    assert open_dataset(tmp_path).classes == [f"a{character}b", "c"]
    cells = Cells(tmp_path / "cells", {}, 3)
    cells.add(f"a{character}b", 0, [True, False, True], 1.0)
    assert [*Cells(tmp_path / "cells", {}, 3)] == [(f"a{character}b", 0)]
