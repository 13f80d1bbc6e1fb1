"""Breaks of banks, and of counts and draws in workers."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tools.bank import READS_BEFORE, Pictures, contents, make, save_pictures
from tools.nfa import NAMES, TensorImages, batch_of, checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import ImageFolder

from nfaug.augment.counters import Counters
from nfaug.augment.transform import NFAugment
from nfaug.bank import Bank, BankDataset
from nfaug.bank import make as module
from nfaug.data.images import Images
from nfaug.integrations.torchvision import NFACollate
from nfaug.io.lock import OutputInUseError
from nfaug.training import TrainConfig, train

IMAGES = 30


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Read only."""
    return make(tmp_path_factory.mktemp("bank") / "b")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank in three shards. Read only."""
    out = tmp_path_factory.mktemp("sharded") / "bank"
    for index in range(3):
        make(out, shard=(index, 3), batch_size=4)
    return out


class Paused(Pictures):
    """Calls `pause` before image 20 is read to make its variants."""

    def __init__(self, pause: Any) -> None:
        super().__init__()
        self.pause = pause

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index == 20 and self.reads >= READS_BEFORE:
            self.pause()
        return super().__getitem__(index)


class Unstored(Dataset[tuple[Any, int]]):
    """Images whose labels are found nowhere but in the items."""

    def __init__(self, count: int) -> None:
        self.pictures = Pictures(count)
        self.hidden = list(self.pictures.targets)

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.pictures[index][0], self.hidden[index]


def changed(bank: Bank, folder: Path, name: str, data: bytes) -> Path:
    """A copy of a bank with another content of one file."""
    shutil.copytree(bank.path, folder)
    (folder / name).write_bytes(data)
    return folder


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_second_bank_in_the_same_folder_is_refused(tmp_path: Path, bank: Bank) -> None:
    """Break 2: two banks in one `--out` at once wrote over each other."""
    refused = []

    def second() -> None:
        with ThreadPoolExecutor(1) as pool:
            refused.append(pool.submit(make, tmp_path / "b").exception())

    make(tmp_path / "b", Paused(second))
    assert [type(error) for error in refused] == [OutputInUseError]
    assert contents(tmp_path / "b") == contents(bank.path)


def test_a_generator_in_workers_of_a_forkserver() -> None:
    """Break 48 (and 3): the loader failed, or workers drew the same numbers."""
    images, labels = batch_of(8)
    generator = torch.Generator().manual_seed(0)
    nfa = NFAugment(checkpoint(), p=1.0, gate=None, generator=generator)
    loader = DataLoader(
        TensorDataset(images.repeat(2, 1, 1, 1), labels.repeat(2)),
        batch_size=8,
        collate_fn=NFACollate(nfa),
        num_workers=2,
        multiprocessing_context="forkserver",
    )
    first, second = [batch for batch, _ in loader]
    assert not torch.equal(first, images)
    assert not torch.equal(first, second)


def test_files_of_the_same_names_and_sizes_are_other_data(tmp_path: Path) -> None:
    """Break 12: names and sizes identified a data set, not its content."""
    folder = save_pictures(tmp_path / "images")
    for file in folder.rglob("*.png"):
        file.with_suffix(".bmp").write_bytes(bitmap(file))
        file.unlink()
    data = ImageFolder(str(folder))
    made = make(tmp_path / "b", data)
    name, other = (Path(data.samples[index][0]) for index in (3, 4))
    size = name.stat().st_size
    name.write_bytes(other.read_bytes())
    assert name.stat().st_size == size
    with pytest.raises(ValueError, match="data_sha256"):
        make(tmp_path / "b", data)
    replaced = BankDataset(data, made, p=1.0)
    assert made.applied[3].any()
    with pytest.raises(ValueError, match=f"{name.name} is not the image .* 1 of 30"):
        replaced[3]


def bitmap(file: Path) -> bytes:
    """An image file as BMP, whose size is that of its pixels."""
    data = io.BytesIO()
    Image.open(file).save(data, "BMP")
    return data.getvalue()


def test_a_killed_bank_is_continued(tmp_path: Path, bank: Bank) -> None:
    """Break 16: a bank that was killed began again at 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this process has threads, which do nothing
        child = os.fork()
    if not child:
        torch.set_num_threads(1)
        module._SAVE_SECONDS = 0.0
        make(tmp_path / "b", Paused(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["done"] == 16
    make(tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bank.path)


def test_threads_lose_no_counts() -> None:
    """Break 18: counts of images were lost between threads."""
    counters = Counters()
    codes = torch.tensor([0, 1, 1, 2])
    images, labels = batch_of(4)
    nfa = NFAugment(checkpoint(), p=0.5)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: counters.add(codes), range(2000)))
            list(pool.map(lambda _: nfa(images, labels), range(50)))
    finally:
        sys.setswitchinterval(before)
    counts = counters.read()
    assert counts["seen"] == 8000
    assert counts["applied"] == 4000
    assert counts["far"] == 2000
    assert nfa.stats()["seen"] == 200


def test_labels_that_the_bank_was_not_made_with(tmp_path: Path, bank: Bank) -> None:
    """Break 21: labels of a bank were not those of the data."""
    other = Pictures()
    other.targets[7] = 2
    with pytest.raises(ValueError, match="image 7 "):
        BankDataset(other, bank)
    labels = np.roll(bank.labels, 1)
    with pytest.raises(ValueError, match=r"labels\.npy"):
        Bank(changed(bank, tmp_path / "b", "labels.npy", npy(labels)))


def test_shards_of_other_images_are_not_joined(tmp_path: Path) -> None:
    """Break 22: two processes began at once, each in a folder without another shard."""
    for index, data in enumerate((Pictures(), Pictures(seed=9))):
        make(tmp_path / f"{index}", data, shard=(index, 2), batch_size=4)
    name = "shard-00001-of-00002"
    (tmp_path / "1" / name).rename(tmp_path / "0" / name)
    with pytest.raises(ValueError, match="data_sha256"):
        Bank(tmp_path / "0")
    make(tmp_path / "0", shard=(1, 2), overwrite=True, batch_size=4)
    assert len(Bank(tmp_path / "0")) == IMAGES


def test_a_shard_under_the_name_of_another_is_not_joined(tmp_path: Path, sharded: Path) -> None:
    """Break 22: a shard in the place of another was joined, with its images twice."""
    shutil.copytree(sharded, tmp_path / "b")
    last = tmp_path / "b" / "shard-00002-of-00003"
    shutil.rmtree(last)
    shutil.copytree(tmp_path / "b" / "shard-00001-of-00003", last)
    with pytest.raises(ValueError, match=last.name):
        Bank(tmp_path / "b")


class Unread(Pictures):
    """Its images may be read to tell the data set from others, not to make variants."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        assert self.reads <= 2 * len(self) + 4, "a bank is being made"
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("place", "settings", "error", "word"),
    [
        ("sharded", {"shard": (0, 2)}, FileExistsError, "division"),
        ("whole", {"shard": (0, 2)}, FileExistsError, "division"),
        ("sharded", {}, FileExistsError, "--shard"),
        ("new", {"shard": (0, 9)}, ValueError, "8 shards"),
        ("sharded", {"shard": (0, 3), "seed": 1, "overwrite": True}, ValueError, "seed"),
        ("sharded", {"shard": (0, 3), "noise": 0.5, "overwrite": True}, ValueError, "noise"),
        (
            "sharded",
            {"shard": (0, 3), "dataset": Unread(seed=9), "overwrite": True},
            ValueError,
            "data_sha256",
        ),
        (
            "sharded",
            {"shard": (0, 3), "dataset": Unread(60), "overwrite": True},
            ValueError,
            "data_sha256",
        ),
    ],
)
def test_a_part_that_cannot_be_joined_fails_before_the_work(
    place: str,
    settings: dict[str, Any],
    error: type[Exception],
    word: str,
    sharded: Path,
    bank: Bank,
    tmp_path: Path,
) -> None:
    """Break 27: a part of a joined bank was made again, and only then refused."""
    out = {"sharded": sharded, "whole": bank.path, "new": tmp_path / "new"}[place]
    with pytest.raises(error, match=word):
        make(out, **{"dataset": Unread(), "batch_size": 4, **settings})
    assert len(Bank(sharded)) == IMAGES, "nothing was changed"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format_version": 3}, "version"),
        ({"more": 1}, "more"),
        ({"parameters": 5}, "parameters"),
        ({"parameters": {"levels": 3}}, "levels"),
        ({"parameters": {"alpha": -1.0}}, "alpha"),
        ({"parameters": {"gate": 10**400}}, "gate"),
        ({"shape": [3, 8, 9]}, "variants.npy"),
        ({"shape": 3}, "shape"),
        ({"shape": [3, 8]}, "shape"),
        ({"shape": [3, 8, "8"]}, "shape"),
        ({"variants": 10**30}, "variants.npy"),
        ({"variants": True}, "variants"),
        ({"images": None}, "images"),
        ({"images": 0, "done": 0}, "at least"),
        ({"done": 2.5}, "done"),
        ({"first": -1}, "first"),
        ({"classes": 5}, "classes"),
        ({"classes": "cat"}, "classes"),
        ({"classes": [1, 2, 3]}, "classes"),
        ({"classes": ["cat"]}, "labels.npy"),
        ({"labels_sha256": None}, "labels_sha256"),
        ({"data_sha256": ["a"]}, "data_sha256"),
        ({"residual": 0}, "residual"),
        ({"residual": True}, "residual"),
        ({"batch_size": "8"}, "batch_size"),
    ],
    ids=repr,
)
def test_a_wrong_value_in_a_manifest_is_refused(
    changes: dict[str, Any], word: str, bank: Bank, tmp_path: Path
) -> None:
    """Break 30: values of wrong types in a manifest gave TypeError, IndexError, or were taken."""
    values = json.loads((bank.path / "manifest.json").read_text())
    text = json.dumps(values | changes)
    with pytest.raises(ValueError, match=word) as raised:
        Bank(changed(bank, tmp_path / "b", "manifest.json", text.encode()))
    assert str(tmp_path / "b") in str(raised.value)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_corrected_label_of_items_that_store_none(p: float, tmp_path: Path) -> None:
    """Break 38: about 32 labels were compared, and the bank's were served for all others."""
    data = Unstored(300)
    made = make(tmp_path / "b", data, variants=1)
    items = BankDataset(data, made, p=p)
    assert [items[index][1] for index in range(300)] == data.hidden
    data.hidden[150] = 2
    assert items[149][1] == data.hidden[149]
    with pytest.raises(ValueError, match="image 150 "):
        items[150]


def test_an_item_whose_label_is_not_the_stored_one(bank: Bank, tmp_path: Path) -> None:
    """Break 38 (and 21): an item's corrected label was served as the bank's, at p = 0 too."""

    class Corrected(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image, (2 if index == 7 else label)

    items = BankDataset(Corrected(), bank, p=0.0)
    assert items[6][1] == 0
    with pytest.raises(ValueError, match="targets"):
        items[7]
    with pytest.raises(ValueError, match="targets"):
        make(tmp_path / "b", Corrected())


def test_a_folder_with_the_manifest_of_another_program_is_kept(tmp_path: Path) -> None:
    """Break 44: `--overwrite` replaced and dropped files that were no bank's."""
    names = ("manifest.json", "labels.npy", "hashes.npy", "variants.npy", "index.html")
    for name in names:
        (tmp_path / name).write_text('{"name": "an app", "start_url": "/"}')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        make(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_files_of_other_programs_in_the_folder_of_a_bank_are_kept(tmp_path: Path) -> None:
    """Break 44: `--overwrite` dropped every file of a bank's names."""
    made = make(tmp_path / "b")
    for name in ("notes.txt", "residuals.npy"):
        (made.path / name).write_text("mine")
    make(made.path, seed=1, overwrite=True)
    assert Bank(made.path).manifest.seed == 1
    for name in ("notes.txt", "residuals.npy"):
        assert (made.path / name).read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["variants.npy", "applied.npy", "hashes.npy", "labels.npy", "paths.npy"]
)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            b"(30,",
            b"((((",
        ),
        (b"'shape': (", b"'shape'\\: ("),
        (b"'descr'", b"   descr"),
        (b"(30", b"(-1"),
    ],
)
def test_a_damaged_header_is_refused(
    name: str, old: bytes, new: bytes, bank: Bank, tmp_path: Path
) -> None:
    """Break 57: damaged headers of .npy files gave TokenError."""
    data = (bank.path / name).read_bytes()
    folder = changed(bank, tmp_path / "b", name, data.replace(old, new, 1))
    with pytest.raises(ValueError, match=name):
        BankDataset(Pictures(), folder)


def test_a_header_with_the_other_order_of_axes_is_refused(bank: Bank, tmp_path: Path) -> None:
    """Break 57: a damaged header gave other pixels."""
    data = (bank.path / "variants.npy").read_bytes()
    data = data.replace(b"False", b"True ", 1)
    with pytest.raises(ValueError, match=r"variants\.npy"):
        Bank(changed(bank, tmp_path / "b", "variants.npy", data))


def test_a_sparse_file_among_the_images_is_refused(tmp_path: Path) -> None:
    """Break 58: a file of a terabyte without content gave MemoryError."""
    folder = save_pictures(tmp_path / "images")
    data = ImageFolder(str(folder))
    sparse = Path(data.samples[1][0])
    os.truncate(sparse, 2**40)
    with pytest.raises(ValueError, match=sparse.name):
        make(tmp_path / "b", data)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_a_bank_of_images_of_one_pixel(size: tuple[int, int], tmp_path: Path) -> None:
    """Break 60: images one pixel wide gave RuntimeError in training."""
    pictures = Pictures(6)
    items = [(pictures[index][0].resize(size), pictures[index][1]) for index in range(6)]
    made = make(tmp_path / "b", items, gate=None, variants=1)
    rows = made.applied[:, 0].nonzero()[0].tolist()
    assert rows
    data = BankDataset(items, made, p=1.0)
    assert {data[row][0].size for row in rows} == {size}
    assert any(data[row][0].tobytes() != items[row][0].tobytes() for row in rows)


def test_a_bank_that_continues_reads_a_spread_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 16: a large bank must continue soon, and still not over other images."""
    monkeypatch.setattr(Images.fingerprint, "__defaults__", (4,))
    monkeypatch.setattr(importlib.import_module("nfaug.data.images"), "PEEKS", 4)
    make(tmp_path)
    data = Pictures()
    make(tmp_path, data)
    assert data.reads <= 16
    data.images[10] = 255 - data.images[10]
    with pytest.raises(ValueError, match="data_sha256"):
        make(tmp_path, data)
    data.images[10] = 255 - data.images[10]  # as it was
    data.images[7] = 255 - data.images[7]  # among those that are done, not in the spread of all
    replaced = BankDataset(data, make(tmp_path, data), p=1.0)
    with pytest.raises(ValueError, match=r"image 7 is not the image .* 1 of 30"):
        replaced[7]


@pytest.mark.parametrize(
    "single",
    [{"seed": 2.5}, {"seed": True}, {"seed": 10**30}, {"variants": 2.5}, {"batch_size": 2.5},
     {"variants": 10**30}, {"workers": -1}],
)  # fmt: skip
def test_numbers_that_are_not_written_into_a_manifest(
    single: dict[str, Any], tmp_path: Path
) -> None:
    """Break 103: make_bank(seed=2.5) wrote a manifest that cannot be read."""
    (name,) = single
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        make(tmp_path / "b", **single)
    assert [*tmp_path.iterdir()] == []


def test_a_seed_of_numpy(tmp_path: Path) -> None:
    """Break 103: its type, which JSON lacks, was an error in the middle."""
    assert make(tmp_path / "b", seed=np.int64(3), variants=np.int32(2)).manifest.seed == 3
    assert Bank(tmp_path / "b").manifest.variants == 2


ROWS = 300  # of which 1% are three


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files, and a bank of them. Read only."""
    root = tmp_path_factory.mktemp("large")
    folder = save_pictures(root / "images", ROWS)
    make(root / "bank", ImageFolder(str(folder)), variants=1, gate=None)
    return folder, root / "bank"


def edit_files(folder: Path, bank: Path, rows: list[int]) -> None:
    """Give images the content of others of their class, as a rename or another download may."""
    samples = ImageFolder(str(folder)).samples
    for row in rows:
        Path(samples[row][0]).write_bytes(Path(samples[row + 1][0]).read_bytes())


def damage_variants(folder: Path, bank: Path, rows: list[int]) -> None:
    """Blacken variants, as a disk or a sync that failed may."""
    variants = np.load(bank / "variants.npy", mmap_mode="r+")
    variants[rows] = 0
    variants.flush()


HARMS = [edit_files, damage_variants]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_not_of_an_image_is_not_served(
    large: tuple[Path, Path], tmp_path: Path, harm: Any, workers: int
) -> None:
    """Breaks 112 and 115: a sample of hashes was compared, and variants had none."""
    folder, bank = tmp_path / "images", tmp_path / "bank"
    shutil.copytree(large[0], folder)
    shutil.copytree(large[1], bank)
    rows = [10, 150, 280]
    harm(folder, bank, rows)
    source = ImageFolder(str(folder))
    data = BankDataset(source, bank, p=1.0, transform=np.array)
    assert data.bank.applied[rows].all()
    loader = DataLoader(data, batch_size=20, num_workers=workers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        served = torch.cat([images for images, _ in loader]).numpy()
    if not workers:  # a worker warns in its own process
        (warning,) = [str(each.message) for each in said if "as they are" in str(each.message)]
        assert "image 10" in warning or Path(source.samples[10][0]).name in warning
    assert data.changed == 3
    for row, image in enumerate(served):
        own = np.array(source[row][0])
        expected = own if row in rows else data.bank.variants[row, 0]
        assert (image == expected).all(), row


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_in_a_hundred_is_an_error(
    large: tuple[Path, Path], tmp_path: Path, harm: Any, workers: int
) -> None:
    """Breaks 112 and 115: a training must not go on with other data."""
    folder, bank = tmp_path / "images", tmp_path / "bank"
    shutil.copytree(large[0], folder)
    shutil.copytree(large[1], bank)
    harm(folder, bank, [10, 11, 150, 280])
    data = BankDataset(ImageFolder(str(folder)), bank, p=1.0, transform=np.array)
    loader = DataLoader(data, batch_size=20, num_workers=workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="4 of 300 images"):
            list(itertools.chain(loader, loader, loader))  # epochs


def test_a_training_does_not_go_on_with_other_images(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 112: a resumed training compared 1,024 of its images."""
    monkeypatch.setattr(Images.fingerprint, "__defaults__", (2,))
    images, labels = batch_of(60)
    data = TensorImages(images, labels, NAMES)
    train(data, tmp_path, config=replace(tiny_config, epochs=1), progress=False)
    images[7] = 255 - images[7]
    longer = replace(tiny_config, epochs=2)
    with pytest.raises(ValueError, match="other images or settings: --data"):
        train(data, tmp_path, config=longer, resume=True, progress=False)
