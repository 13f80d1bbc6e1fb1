"""Folders and tars of images: what is opened, what is refused and how, and what comes out."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nfaug.data.open import (
    ImageDecodeError,
    MissingSplitError,
    open_dataset,
    to_tensors,
)


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int = 0, shape: tuple[int, ...] = (6, 6, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *shape)).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def pack(folder: Path, tar: Path, mode: Any = "w") -> Path:
    with tarfile.open(tar, mode) as archive:
        archive.add(folder, arcname=".")
    return tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, ten images each; the order of classes is by number, not by letter."""
    root = tmp_path / "images"
    for seed in range(30):
        save(root / ["a2", "a10", "B"][seed // 10] / f"{seed % 10}.png", seed)
    return root


# Folders and tars


def test_folder(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.classes == ["a2", "a10", "B"]
    assert dataset.class_to_idx == {"a2": 0, "a10": 1, "B": 2}
    assert dataset.targets.dtype == torch.int64
    assert dataset.targets.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert (dataset.channels, dataset.image_size, dataset.skipped) == (3, (6, 6), [])
    assert json.loads(json.dumps(dataset.preprocessing))["image_size"] == [6, 6]
    assert len(dataset) == 30
    image, label = dataset[-1]
    assert torch.equal(image, torch.from_numpy(pixels(29, 6, 6, 3)).permute(2, 0, 1))
    assert image.is_contiguous()
    assert type(label) is int
    assert label == 2
    assert dataset.name(0) == str(folder / "a2" / "0.png")
    with pytest.raises(IndexError):
        dataset[30]


@pytest.mark.parametrize("wrapper", ["", "outer", "outer/inner"])
def test_tar_is_the_folder(folder: Path, tmp_path: Path, wrapper: str) -> None:
    home = tmp_path / "packed" / wrapper
    home.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(home)
    (home / "B" / "._0.png").write_bytes(b"what macOS leaves behind")
    (home / "notes.txt").write_text("no image")
    tar = open_dataset(pack(tmp_path / "packed", tmp_path / "images.tar"))
    plain = open_dataset(tmp_path / "packed")
    assert tar.classes == plain.classes == ["a2", "a10", "B"]
    assert tar.fingerprint() == plain.fingerprint()
    for one, other in zip(to_tensors(tar), to_tensors(plain), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_images_without_classes(tmp_path: Path, packed: bool) -> None:
    """All images at any depth are one class; the split folders are still split folders."""
    root = tmp_path / "photos"
    for seed, path in enumerate(["10.png", "9.png", "holiday/1.png"]):
        save(root / path, seed)
    data = pack(root, tmp_path / "photos.tar") if packed else root
    dataset = open_dataset(data, labels=False)
    assert dataset.classes == ["images"]
    assert dataset.targets.tolist() == [0, 0, 0]
    assert [Path(dataset.name(i).split(" in ")[0]).name for i in range(3)] == [
        *("9.png", "10.png", "1.png")
    ]
    with pytest.raises(MissingSplitError, match="split='test'"):
        open_dataset(data, split="test", labels=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        open_dataset(tmp_path / "empty", labels=False)
    split = tmp_path / "split"
    for seed, path in enumerate(["train/1.png", "train/2.png", "val/1.png"]):
        save(split / path, seed)
    data = pack(split, tmp_path / "split.tar") if packed else split
    assert len(open_dataset(data, labels=False)) == 2
    assert len(open_dataset(data, split="val", labels=False)) == 1


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_a_single_class_is_a_warning(tmp_path: Path, packed: bool) -> None:
    for seed in range(3):
        save(tmp_path / "data" / "photos" / f"{seed}.png", seed)
    data = pack(tmp_path / "data", tmp_path / "data.tar") if packed else tmp_path / "data"
    with pytest.warns(UserWarning, match="'photos'"):
        assert open_dataset(data).classes == ["photos"]
    assert len(open_dataset(data, labels=False)) == 3


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_splits(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "data"
    for seed, path in enumerate(["train/cat", "train/dog", "train/emu", "val/emu", "val/cat/deep"]):
        save(root / path / "1.png", seed)
    data = pack(root, tmp_path / "data.tar") if packed else root
    assert open_dataset(data).targets.tolist() == [0, 1, 2]
    for split in ("val", "validation", "test"):  # and no class may be missing in training only
        held_out = open_dataset(data, split=split)
        assert held_out.classes == ["cat", "dog", "emu"]
        assert held_out.targets.tolist() == [0, 2]
    with pytest.raises(MissingSplitError, match="split='extra'"):
        open_dataset(data, split="extra")


def test_validation_is_never_the_test_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "cat" / "1.png")
    with pytest.raises(MissingSplitError, match="split='val'"):
        open_dataset(tmp_path, split="val")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        save(tmp_path / name / "1.png")
    assert open_dataset(tmp_path).classes == ["bus", "car", "train"]


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(folder / "a2")
    (tmp_path / "linked" / "b").symlink_to(folder / "B")
    (folder / "B" / "up").symlink_to(tmp_path / "linked")
    assert open_dataset(tmp_path / "linked").targets.bincount().tolist() == [10, 10]


def test_a_class_may_be_a_link_into_another_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "s" / "train").mkdir(parents=True)
    (tmp_path / "s" / "train" / "all").symlink_to(folder)
    (tmp_path / "s" / "train" / "part").symlink_to(folder / "B")
    for place in (tmp_path / "s", tmp_path / "s" / "train"):
        found = open_dataset(place, image_size=6)
        assert found.classes == ["all", "part"]
        assert found.targets.bincount().tolist() == [30, 10]


def test_names_that_are_not_utf_8_have_a_fingerprint(folder: Path) -> None:
    (folder / "B" / "0.png").rename(folder / "B" / "caf\udce9.png")
    assert len(open_dataset(folder, image_size=6).fingerprint()) == 64


def test_links_to_themselves_are_ignored(folder: Path) -> None:
    (folder / "B" / "self").symlink_to("self")
    (folder / "B" / "one").symlink_to("other")
    (folder / "B" / "other").symlink_to("one")
    assert open_dataset(folder).targets.bincount().tolist() == [10, 10, 10]


def test_links_cost_linear_time(tmp_path: Path) -> None:
    """18 folders with two links each to the next one have 2^18 paths."""
    for number in range(18):
        (tmp_path / "x" / str(number)).mkdir(parents=True)
        for link in "ab":
            (tmp_path / "x" / str(number) / link).symlink_to(tmp_path / "x" / str(number + 1))
    save(tmp_path / "x" / "18" / "1.png")
    save(tmp_path / "y" / "1.png")
    assert open_dataset(tmp_path).targets.bincount().tolist() == [1, 1]


def test_a_split_may_be_a_link_to_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data" / "train")
    (tmp_path / "data" / "val").symlink_to(tmp_path / "data" / "train")
    assert len(open_dataset(tmp_path / "data", split="val")) == 30


def test_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "/".join("x" * 1200)
    path = tmp_path
    for part in deep.relative_to(tmp_path).parts:
        path = path / part
        path.mkdir()
    save(deep / "1.png")
    save(tmp_path / "b" / "1.png")
    assert open_dataset(tmp_path).classes == ["a", "b"]
    for parent in [deep, *deep.parents][:1201]:  # pytest's own cleaning recurses
        for file in parent.glob("*.png"):
            file.unlink()
        parent.rmdir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_regular_files_are_read(folder: Path) -> None:
    os.mkfifo(folder / "B" / "pipe.png")
    (folder / "B" / "gone.png").symlink_to(folder / "nowhere.png")
    assert len(to_tensors(open_dataset(folder))[0]) == 30


# Labels in a file


LABELS = "file,label\n1.png,dog\n9.png,cat\nmore/10.png,dog\n"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Images beside a labels.csv."""
    root = tmp_path / "flat"
    for seed, path in enumerate(["1.png", "9.png", "more/10.png"]):
        save(root / path, seed)
    (root / "labels.csv").write_text(LABELS)
    return root


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_labels_file(flat: Path, tmp_path: Path, packed: bool) -> None:
    dataset = open_dataset(pack(flat, tmp_path / "flat.tar") if packed else flat)
    assert dataset.classes == ["cat", "dog"]
    assert [Path(dataset.name(i).split(" in ")[0]).name for i in range(3)] == [
        *("1.png", "9.png", "10.png")
    ]
    assert dataset.targets.tolist() == [1, 0, 1]
    assert torch.equal(dataset[1][0], torch.from_numpy(pixels(1, 6, 6, 3)).permute(2, 0, 1))


def test_labels_file_of_each_split(flat: Path, tmp_path: Path) -> None:
    flat.rename(tmp_path / "train")
    save(tmp_path / "val" / "2.png")
    (tmp_path / "val" / "labels.csv").write_text("\ufefffile,label\r\n2.png,dog\r\n")
    held_out = open_dataset(tmp_path, split="val")
    assert (held_out.classes, held_out.targets.tolist()) == (["cat", "dog"], [1])
    (tmp_path / "val" / "labels.csv").write_text("file,label\n2.png,eel\n")
    with pytest.raises(ValueError, match="'eel'"):
        open_dataset(tmp_path, split="val")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,class\n1.png,dog\n", "file,label"),
        ("", "file,label"),
        ("file,label\n2.png,dog\n", "2.png"),
        ("file,label\n../flat/1.png,dog\n", "line 2"),
        ("file,label\n1.png,dog\n1.png,cat\n", "twice"),
        ("file,label\n1.png\n", "no label"),
        ("file,label\n1.png,dog,cat\n", "no label"),
        ('file,label\n"1.png', "UTF-8"),
    ],
)
def test_wrong_labels_files(flat: Path, text: str, word: str) -> None:
    (flat / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=word):
        open_dataset(flat)


@pytest.mark.parametrize("header", ['"file","label"\n', "file, label\n", "file,label\r"])
def test_every_way_to_write_the_header(tmp_path: Path, header: str) -> None:
    end = header[-1]
    for part in ("part0", "part1"):
        save(tmp_path / part / "0.png")
    rows = f"part0/0.png,dog{end}part1/0.png,cat{end}"
    (tmp_path / "labels.csv").write_text(header + rows, newline="")
    found = open_dataset(tmp_path)
    assert (found.classes, found.targets.tolist()) == (["cat", "dog"], [1, 0])


def test_class_folders_of_the_training_split_define_a_held_out_table(tmp_path: Path) -> None:
    for name in ("bird", "cat", "dog"):
        save(tmp_path / "train" / name / "0.png")
    for number in range(2):
        save(tmp_path / "val" / f"{number}.png")
    (tmp_path / "val" / "labels.csv").write_text("file,label\n0.png,dog\n1.png,cat\n")
    found = open_dataset(tmp_path, split="val")
    assert (found.classes, found.targets.tolist()) == (["bird", "cat", "dog"], [2, 1])
    (tmp_path / "val" / "labels.csv").write_text("file,label\n0.png,eel\n1.png,cat\n")
    with pytest.raises(ValueError, match="'eel'"):
        open_dataset(tmp_path, split="val")


def test_a_table_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    for part in ("part0", "part1"):
        save(tmp_path / part / "0.png")
    rows = "file,label\npart0/0.png,caf\xe9\npart1/0.png,tea\n"
    (tmp_path / "labels.csv").write_bytes(rows.encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        open_dataset(tmp_path)


def test_a_held_out_table_beside_unlabelled_training_images(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "train" / f"{number}.png")
        save(tmp_path / "test" / f"{number}.png")
    (tmp_path / "test" / "labels.csv").write_text("file,label\n0.png,dog\n1.png,cat\n")
    found = open_dataset(tmp_path, split="test")
    assert (found.classes, found.targets.tolist()) == (["cat", "dog"], [1, 0])


def test_another_table_beside_class_folders_is_ignored(folder: Path) -> None:
    (folder / "labels.csv").write_text("id,breed\n")
    assert open_dataset(folder).classes == ["a2", "a10", "B"]


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "images.zip", "x.tfrecord"])
def test_other_files_are_told_what_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 something else, longer than a block" * 20)
    with pytest.raises(ValueError, match="npz") as caught:
        open_dataset(tmp_path / name)
    assert name in str(caught.value)


def test_folder_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "flat" / "1.png")
    save(tmp_path / "strange" / "train" / "cat" / "1.png")
    save(tmp_path / "strange" / "test" / "dog" / "1.png")
    with pytest.raises(ValueError, match="no image"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(ValueError, match="single"):
        open_dataset(tmp_path / "flat")
    with pytest.raises(ValueError, match="'dog'"):
        open_dataset(tmp_path / "strange", split="test")
    with pytest.raises(MissingSplitError, match="split='test'"):
        open_dataset(folder, split="test")
    (folder / "C").mkdir()
    with pytest.raises(ValueError, match="'C'"):
        open_dataset(folder)


def test_tar_errors(folder: Path, tmp_path: Path) -> None:
    tar = pack(folder, tmp_path / "images.tar")
    whole = tar.read_bytes()
    with pytest.raises(ValueError, match="compressed"):
        open_dataset(pack(folder, tmp_path / "images.tgz", "w:gz"))
    (tmp_path / "no.tar").write_text("something else")
    with pytest.raises(ValueError, match=r"no\.tar"):
        open_dataset(tmp_path / "no.tar")
    with tarfile.open(tar) as archive:
        header = archive.getmembers()[3].offset
    tar.write_bytes(whole[: header + 600])
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(tar)
    tar.write_bytes(whole[:header] + b"x" * 512 + whole[header + 512 :])
    with pytest.raises(ValueError, match=f"byte {header}"):
        open_dataset(tar)
    (folder / "B" / "link.png").symlink_to(folder / "B" / "0.png")
    with pytest.raises(ValueError, match=r"B/link\.png"):
        open_dataset(pack(folder, tar))


# Images that cannot be decoded


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_corrupt_images(folder: Path, tmp_path: Path, packed: bool) -> None:
    clean, _ = to_tensors(open_dataset(folder))
    truncate(folder / "a10" / "3.png")  # passes a look at its header
    (folder / "B" / "4.png").write_bytes(b"no image at all")
    data = pack(folder, tmp_path / "images.tar") if packed else folder
    dataset = open_dataset(data, image_size=6, channels=3)
    with pytest.raises(ImageDecodeError, match=r"a10/3\.png"):
        dataset[13]
    with pytest.raises(ImageDecodeError, match="UnidentifiedImageError"):
        dataset[24]
    with pytest.raises(ImageDecodeError, match=r"a10/3\.png"):
        to_tensors(dataset)
    skipping = open_dataset(data, on_error="skip")
    assert len(skipping) == 28
    assert [Path(name.split()[0]).name for name in skipping.skipped] == ["3.png", "4.png"]
    assert skipping.targets.bincount().tolist() == [10, 9, 9]
    kept = [index for index in range(30) if index not in (13, 24)]
    assert torch.equal(to_tensors(skipping)[0], clean[kept])
    assert skipping.subset(torch.tensor([0])).skipped == skipping.skipped


def test_nothing_left_after_skipping(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png")
    truncate(tmp_path / "b" / "1.png")
    with pytest.raises(ValueError, match="'b'"):
        open_dataset(tmp_path, on_error="skip")
    truncate(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match="without 2"):
        open_dataset(tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="'ignore'"):
        open_dataset(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_a_file_that_vanished_is_not_skipped(folder: Path) -> None:
    dataset = open_dataset(folder)
    (folder / "a2" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a2/0\.png"):
        dataset[0]


# Workers and choices


# Threads of torch and a fork, of which newer Pythons warn: the usual state of a training script.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_workers_read_the_same(folder: Path, tmp_path: Path, packed: bool) -> None:
    truncate(folder / "B" / "0.png")
    data = pack(folder, tmp_path / "images.tar") if packed else folder
    dataset = open_dataset(data, on_error="skip")
    images, labels = to_tensors(dataset)
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    parts = list(zip(*loader, strict=True))
    assert torch.equal(torch.cat(parts[0]), images)
    assert torch.equal(torch.cat(parts[1]), labels)
    assert len(labels) == 29


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_corrupt_image_in_a_worker_is_named(folder: Path) -> None:
    truncate(folder / "B" / "7.png")
    batches = iter(DataLoader(open_dataset(folder), batch_size=4, num_workers=2))
    with pytest.raises(ImageDecodeError, match=r"B/7\.png"):
        list(batches)
    assert len(list(batches)) == 1  # to the end: torch is slow to stop workers in the middle


def test_per_class(folder: Path) -> None:
    def names(n: int, seed: int) -> list[str]:
        dataset = open_dataset(folder, per_class=n, seed=seed)
        assert dataset.targets.tolist() == [0] * n + [1] * n + [2] * n
        return [dataset.name(index) for index in range(len(dataset))]

    assert names(3, 0) == names(3, 0) != names(3, 1)
    assert set(names(3, 0)) < set(names(5, 0))
    with pytest.raises(ValueError, match="'a2'"):
        open_dataset(folder, per_class=11)
    with pytest.raises(ValueError, match="got 0"):
        open_dataset(folder, per_class=0)


def test_fingerprint(folder: Path, tmp_path: Path) -> None:
    before = open_dataset(folder)
    assert before.fingerprint() == open_dataset(folder, image_size=3, channels=1).fingerprint()
    assert before.fingerprint() != before.subset(torch.arange(29)).fingerprint()
    folder.rename(tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere").classes == ["a2", "a10", "B"]
    moved = open_dataset(tmp_path / "elsewhere").fingerprint()
    save(tmp_path / "elsewhere" / "B" / "0.png", 99, (7, 6, 3))
    assert moved != open_dataset(tmp_path / "elsewhere", image_size=6).fingerprint()
