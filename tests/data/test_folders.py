"""Folders and tars of images: what is opened, what is refused and how, and what comes out."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.images import pixels, save
from torch.utils.data import DataLoader

from nfaug.data.batches import decode
from nfaug.data.image_files import ImageDecodeError
from nfaug.data.open import open_dataset
from nfaug.data.sources.layout import MissingSplitError
from nfaug.fitting import fit


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
    assert torch.equal(decode(tar), decode(plain))
    assert torch.equal(tar.targets, plain.targets)


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
    split = tmp_path / "split"
    for seed, path in enumerate(["train/1.png", "train/2.png", "val/1.png"]):
        save(split / path, seed)
    data = pack(split, tmp_path / "split.tar") if packed else split
    assert len(open_dataset(data, labels=False)) == 2
    assert len(open_dataset(data, split="val", labels=False)) == 1


def test_a_single_class_is_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "0.png")
    with pytest.warns(UserWarning, match="'photos'"):
        assert open_dataset(tmp_path).classes == ["photos"]


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
    with pytest.warns(UserWarning, match="'train'"):
        assert open_dataset(tmp_path).classes == ["bus", "car", "train"]


def test_links_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(folder / "a2")
    (linked / "b").symlink_to(folder / "B")
    (folder / "B" / "up").symlink_to(linked)
    (folder / "B" / "self").symlink_to("self")
    assert open_dataset(linked).targets.bincount().tolist() == [10, 10]


def test_broken_links_are_named_or_skipped(folder: Path) -> None:
    """They vanished, and a class of nothing else with them."""
    (folder / "BB").mkdir()
    (folder / "BB" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "BB" / "loop.png").symlink_to(folder / "BB" / "loop.png")
    (folder / "BB" / "notes.txt").symlink_to(folder / "nowhere.txt")
    with pytest.raises(ImageDecodeError, match=r"gone\.png is a link .*on_error"):
        open_dataset(folder, channels=1)
    with pytest.raises(ValueError, match="'BB'"):
        fit("builtin:pixels", open_dataset(folder, on_error="skip"), progress=False)
    (folder / "C").symlink_to(folder / "another disk")
    with pytest.raises(FileNotFoundError, match="C is a link to something that is not there"):
        open_dataset(folder, on_error="skip")


def test_a_folder_that_cannot_be_read_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It vanished, and the labels of later classes were one too small."""
    scandir = os.scandir

    def closed(path: str) -> Any:
        if Path(path).name == "B":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="B"):
        open_dataset(folder)


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
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(tar)
    (folder / "B" / "link.png").symlink_to(folder / "B" / "0.png")
    with pytest.raises(ValueError, match=r"B/link\.png"):
        open_dataset(pack(folder, tar))


# Images that cannot be decoded


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_corrupt_images(folder: Path, tmp_path: Path, packed: bool) -> None:
    clean = decode(open_dataset(folder))
    truncate(folder / "a10" / "3.png")  # passes a look at its header
    (folder / "B" / "4.png").write_bytes(b"no image at all")
    data = pack(folder, tmp_path / "images.tar") if packed else folder
    dataset = open_dataset(data, image_size=6, channels=3)
    with pytest.raises(ImageDecodeError, match=r"a10/3\.png"):
        dataset[13]
    with pytest.raises(ImageDecodeError, match="UnidentifiedImageError"):
        dataset[24]
    with pytest.raises(ImageDecodeError, match=r"a10/3\.png"):
        decode(dataset)
    skipping = open_dataset(data, on_error="skip")
    assert len(skipping) == 28
    assert [Path(name.split()[0]).name for name in skipping.skipped] == ["3.png", "4.png"]
    assert skipping.targets.bincount().tolist() == [10, 9, 9]
    kept = [index for index in range(30) if index not in (13, 24)]
    assert torch.equal(decode(skipping), clean[kept])
    assert skipping.subset(torch.tensor([0])).skipped == skipping.skipped


def test_nothing_left_after_skipping(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png")
        truncate(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match="without 2"):
        open_dataset(tmp_path, on_error="skip")


# Workers and choices


# Threads of torch and a fork, of which newer Pythons warn: the usual state of a training script.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_the_same(folder: Path, tmp_path: Path) -> None:
    truncate(folder / "B" / "0.png")
    dataset = open_dataset(pack(folder, tmp_path / "images.tar"), on_error="skip")
    images = decode(dataset)
    labels = dataset.targets
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    parts = list(zip(*loader, strict=True))
    assert torch.equal(torch.cat(parts[0]), images)
    assert torch.equal(torch.cat(parts[1]), labels)
    assert len(labels) == 29


def test_per_class(folder: Path) -> None:
    def names(n: int, seed: int) -> list[str]:
        dataset = open_dataset(folder, per_class=n, seed=seed)
        assert dataset.targets.tolist() == [0] * n + [1] * n + [2] * n
        return [dataset.name(index) for index in range(len(dataset))]

    assert names(3, 0) == names(3, 0) != names(3, 1)
    assert set(names(3, 0)) < set(names(5, 0))
    assert len(open_dataset(folder, per_class=11)) == 30
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            open_dataset(folder, per_class=wrong)


def test_a_class_with_fewer_images_gives_all_it_has(folder: Path) -> None:
    dataset = open_dataset(folder)
    few = dataset.subset(torch.arange(13))  # ten of the first class, three of the second
    assert few.targets.bincount().tolist() == [10, 3]
    chosen, rest = few.split(per_class=5)
    assert chosen.targets.bincount(minlength=2).tolist() == [5, 3]
    assert rest.targets.bincount(minlength=2).tolist() == [5, 0]


def test_what_tells_images_apart(folder: Path, tmp_path: Path) -> None:
    """Paths, one hash an image, and a fingerprint of the whole, wherever the data lie."""
    data = open_dataset(folder)
    before = data.fingerprint()
    assert data.paths is not None
    assert data.paths[10:12] == ["a10/0.png", "a10/1.png"]
    part = data.subset(torch.tensor([11, 3]))
    assert part.paths == [data.paths[11], data.paths[3]]
    assert before == open_dataset(folder, image_size=3, channels=1).fingerprint()
    assert before != data.subset(torch.arange(29)).fingerprint()
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "train")
    moved = open_dataset(tmp_path / "moved")
    assert (moved.fingerprint(), moved.paths) == (before, data.paths)
    save(tmp_path / "moved" / "train" / "B" / "0.png", 99)  # another image of the same size
    assert open_dataset(tmp_path / "moved").fingerprint() != before
    (tmp_path / "moved" / "train" / "B" / "0.png").rename(
        tmp_path / "moved" / "train" / "B" / "caf\udce9.png"
    )
    assert len(open_dataset(tmp_path / "moved").fingerprint()) == 64
