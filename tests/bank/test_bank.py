"""Making a bank: what is on disk, how it continues, and what it refuses."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tools.bank import READS_BEFORE, Pictures, contents, make, save_pictures
from tools.nfa import NAMES, Counted, checkpoint, images_of, tiny_flow
from torch.utils.data import DataLoader, Subset, TensorDataset, get_worker_info
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.augment.transform import NFAugment
from nfaug.bank import Bank, BankDataset, make_bank
from nfaug.bank import make as module
from nfaug.data import source
from nfaug.data.open import open_dataset
from nfaug.data.sources import folders
from nfaug.run.seeds import SharedGenerator, seed_of

FILES = {
    "manifest.json", "applied.npy", "checksums.npy", "hashes.npy", "labels.npy", "paths.npy",
}  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make(tmp_path_factory.mktemp("bank") / "b")


def test_variants_are_on_disk_with_a_manifest(bank: Bank) -> None:
    data = Pictures()
    assert bank.variants.shape == (30, 3, 8, 8, 3)
    assert bank.variants.dtype == np.uint8
    assert isinstance(bank.variants, np.memmap)
    assert bank.applied.mean() > 0.8
    originals = data.images.permute(0, 2, 3, 1).numpy()[:, None]
    same = (bank.variants == originals).all((2, 3, 4))
    assert (same != bank.applied).all(), "applied says which differ"
    assert (bank.variants[:, 0] != bank.variants[:, 1]).any()
    assert bank.labels.tolist() == data.targets
    assert len(np.unique(bank.hashes, axis=0)) == 30
    assert {path.name for path in bank.path.iterdir()} == {*FILES, "variants.npy"}
    size = (bank.path / "variants.npy").stat().st_size
    assert bank.manifest.nbytes == 30 * 3 * 3 * 8 * 8
    assert 0 < size - bank.manifest.nbytes < 1024
    assert len(pickle.dumps(bank)) < 2000, "the mapped array stays on disk"
    assert repr(bank).endswith("30 images, 3 variants each)")


def test_a_seed_reproduces_and_another_differs(bank: Bank, tmp_path: Path) -> None:
    again = make(tmp_path / "again", config=MixConfig(p=0.1))
    assert again.manifest.parameters == MixConfig(p=1.0)
    assert contents(again.path) == contents(bank.path)
    assert (make(tmp_path / "other", seed=1).variants != bank.variants).any()


def test_a_bank_of_regions(tmp_path: Path) -> None:
    made = make(tmp_path / "one", mix="regions", gate=None)
    assert made.manifest.parameters == MixConfig(p=1.0, mix="regions", gate=None)
    assert made.applied.all()
    make(tmp_path / "two", mix="regions", gate=None)
    assert contents(tmp_path / "two") == contents(made.path)
    assert Bank(made.path).manifest == made.manifest


@pytest.mark.parametrize("stop", [3, 12, 29])
def test_an_interrupted_bank_is_continued(bank: Bank, tmp_path: Path, stop: int) -> None:
    class Fragile(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == stop and self.reads >= READS_BEFORE:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Fragile())
    with pytest.raises(ValueError, match=r"\d+ of 30"):
        Bank(tmp_path)
    done = stop // 8 * 8
    with (tmp_path / "variants.npy").open("r+b") as file:
        file.seek(128 + done * 3 * 192)
        file.write(b"half a batch that was being written")
    make(tmp_path)
    assert contents(tmp_path) == contents(bank.path)


def test_a_bank_of_files_does_not_continue_over_other_files(tmp_path: Path) -> None:
    data = ImageFolder(str(save_pictures(tmp_path / "images")))
    made = make(tmp_path / "b", data)
    assert made.paths[:3] == ["cat/10.png", "cat/11.png", "cat/12.png"]
    make(tmp_path / "b", data)
    (tmp_path / "images" / "cat" / "7.png").write_bytes(Path(data.samples[3][0]).read_bytes())
    with pytest.raises(ValueError, match="data_sha256"):
        make(tmp_path / "b", data)


@pytest.mark.parametrize("images", ["digits", "tensors"])
def test_a_bank_of_images_in_memory_at_another_size(images: str, tmp_path: Path) -> None:
    """It is that of the stored images: it is read with them, and made once."""
    stored: Any = TensorDataset(images_of(torch.arange(30) % 3), torch.arange(30) % 3)
    if images == "digits":
        stored = open_dataset("digits", per_class=3)
    data = open_dataset(stored, image_size=16)
    fitted = nfaug.fit("builtin:pixels", data, image_size=8, rank=2, progress=False)
    for _ in range(2):  # the second call finds it finished
        made = make_bank(fitted, data, tmp_path, variants=2, progress=False)
    assert BankDataset(data, made, p=1.0)[0][0].size == (16, 16)


def test_images_of_other_sizes_are_resized_as_a_fit_does(tmp_path: Path) -> None:
    class Mixed(Pictures):
        """Images of several sizes."""

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image.resize((20 + index % 7, 20 + index % 3)), label

    data = Mixed()
    made = make(tmp_path / "stored", data, image_size=8)
    expected = make(tmp_path / "resized", open_dataset(data, image_size=8))
    assert (made.variants == expected.variants).all()
    with pytest.raises(ValueError, match="--image-size"):
        make(tmp_path / "full", data)
    assert BankDataset(data, made, p=0.0)[4][0].size == (24, 21)

    for index, (image, label) in enumerate(data):
        (tmp_path / "files" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "files" / NAMES[label] / f"{index:03}.png")
    opened = open_dataset(tmp_path / "files")
    from_files = make(tmp_path / "opened", opened, image_size=8)
    expected = make(tmp_path / "opened-8", opened.at(8))
    assert (from_files.variants == expected.variants).all()
    with pytest.raises(ValueError, match=r"differ in size: .* and .*image_size=64"):
        nfaug.pictures.preview_grid(checkpoint(), opened)
    with pytest.raises(ValueError, match="may differ in size"):
        opened.subset(torch.tensor([0])).image_size  # noqa: B018


def test_a_bank_without_a_variant_is_refused(tmp_path: Path) -> None:
    """Training from it would be without augmentation."""
    labels = torch.arange(24) % 3
    far = TensorDataset(255 - images_of(labels) // 8, labels)
    with pytest.raises(ValueError, match="fitted to other images"):
        make_bank(checkpoint(), far, tmp_path / "b", variants=2, gate=0.01, progress=False)
    for part in ((0, 2), (1, 2)):  # one of which may have none
        make(tmp_path / "c", far, gate=0.01, shard=part)
    with pytest.raises(ValueError, match="fitted to other images"):
        BankDataset(far, tmp_path / "c")


def test_a_path_is_opened_and_a_loader_is_not(tmp_path: Path) -> None:
    data = save_pictures(tmp_path / "images")
    for given in (data, str(data)):
        made = make(tmp_path / "bank", given)
        assert list(made.manifest.classes) == sorted(path.name for path in data.iterdir())
    with pytest.raises(ValueError, match=r"loader\.dataset"):
        make(tmp_path / "other", DataLoader(TensorDataset(images_of(torch.zeros(4)))))


def test_an_order_of_classes_that_may_differ_is_warned_of(tmp_path: Path) -> None:
    """As a call of NFA warns: without names, label 0 may be 2 or 10."""
    labels = torch.arange(24) % 3
    data = TensorDataset(images_of(labels), labels)
    named = open_dataset(data, classes=["2", "9", "10"])
    folder = nfaug.fit("builtin:pixels", named, progress=False).save(tmp_path / "nfa")
    make_bank(folder, named, tmp_path / "named", variants=1, progress=False)
    with pytest.warns(UserWarning, match="natural order"):
        make_bank(folder, data, tmp_path / "nameless", variants=1, progress=False)


def test_what_is_refused(bank: Bank, tmp_path: Path) -> None:
    floats = TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="Take the steps"):
        make(tmp_path / "a", floats)
    with pytest.raises(ValueError, match="channels"):
        make(tmp_path / "a", TensorDataset(torch.zeros(4, 2, 8, 8).byte(), torch.ones(4).long()))
    other = checkpoint(config=SimpleNamespace(classes=("cat", "eel", "dog")))
    with pytest.raises(ValueError, match="'dog'"):
        make_bank(other, Pictures(), tmp_path / "o", progress=False)
    with pytest.raises(ValueError, match="variants"):
        make(tmp_path / "v", variants=0)
    with pytest.raises(ValueError, match="no images"):
        make(tmp_path / "v", Subset(Pictures(), []))
    with pytest.raises(ValueError, match="variants"):
        make(bank.path, variants=2, seed=4)
    flow = copy.deepcopy(tiny_flow())
    with torch.no_grad():
        next(flow.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="flow_sha256"):
        make_bank(
            checkpoint(flow=flow), Pictures(), bank.path, variants=3, batch_size=8, progress=False
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="full"):
        make(tmp_path / "full", overwrite=True)


def test_overwriting_leaves_no_old_arrays(tmp_path: Path) -> None:
    make(tmp_path / "b")
    assert make(tmp_path / "b", variants=2, overwrite=True).variants.shape[1] == 2
    assert {file.name for file in (tmp_path / "b").iterdir()} == {*FILES, "variants.npy"}


def test_a_bank_of_an_earlier_version_is_refused(bank: Bank, tmp_path: Path) -> None:
    """It has no checksums, or holds residuals."""
    folder = tmp_path / "b"
    shutil.copytree(bank.path, folder)
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"format_version": 4, "residual": True}))
    before = contents(folder)
    for use in (Bank, functools.partial(make, overwrite=True)):
        with pytest.raises(ValueError, match=f"{file}.*format version 4 is not 5"):
            use(folder)
    assert contents(folder) == before
    with pytest.raises(TypeError, match=r"'residual' any more.*image_size"):
        make(tmp_path / "c", residual=True)


def test_an_interrupt_before_the_first_variant_leaves_nothing_or_the_old_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(make(tmp_path / "old").path)
    with monkeypatch.context() as patch:

        def killed(made: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(module, "array_files", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "new")
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "old", variants=2, overwrite=True)
    assert contents(tmp_path / "old") == old
    assert contents(make(tmp_path / "new").path) == old


def test_sizes_and_times_of_the_page() -> None:
    """The page on banks: 20 variants, images in 100 GB, and figures of `benchmarks/calls.py`."""
    root = Path(__file__).parents[2]
    page = (root / "docs/how-to/banks.md").read_text()
    results = (root / "benchmarks/results/calls.md").read_text()
    measured = []
    for name in ("NFA, axis, p=0.5, uint8", "NFA, rgb32, p=0.5, uint8", "RandAugment, uint8"):
        line = next(line for line in results.splitlines() if line.startswith(f"| {name} |"))
        measured.append(re.findall(r"\| (?:\S+ -> )?([\d.]+)", line))
    rows = re.findall(r"^\| (\d+) x \1 \|(.*) \|$", page, re.MULTILINE)
    assert [int(side) for side, _ in rows] == [32, 64, 128, 224]
    for column, (side, row) in enumerate(rows):
        words = re.findall(r"[\d,.]+", row)
        size = 3 * int(side) ** 2
        variant, twenty, images = (int(word.replace(",", "")) for word in words[:3])
        assert (variant, twenty) == (round(size / 1e3), round(20 * size / 1e3))
        assert images <= 1e11 / (20 * size) < 1.03 * images
        for word, figures in zip(words[3:], measured, strict=True):
            last_digit = 10.0 ** -len(word.partition(".")[2])
            assert float(word) == pytest.approx(float(figures[column]), abs=0.51 * last_digit)


def test_a_file_that_was_changed_is_noticed(bank: Bank, tmp_path: Path) -> None:
    def changed(name: str, data: bytes) -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file, content in contents(bank.path).items():
            (folder / file).write_bytes(data if file == name else content)
        return folder

    labels, hashes = (np.load(bank.path / f"{name}.npy") for name in ("labels", "hashes"))
    path = changed("", b"")
    np.save(path / "hashes.npy", hashes[::-1])
    with pytest.raises(ValueError, match="image 0"):
        BankDataset(Pictures(), path)
    archive, pickled = io.BytesIO(), io.BytesIO()
    np.savez(archive, labels)
    np.save(pickled, np.array([labels, None], object))
    for name, data in (
        ("manifest.json", b"{"), ("variants.npy", b"nothing"), ("labels.npy", b"\x93NUMPY"),
        ("labels.npy", (bank.path / "applied.npy").read_bytes()),
        ("hashes.npy", archive.getvalue()), ("applied.npy", pickled.getvalue()),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            Bank(changed(name, data))
    with pytest.raises(ValueError, match="missing"):
        Bank(tmp_path / "missing")


@pytest.mark.parametrize("name", sorted({*FILES, "variants.npy"}))
def test_pipes_are_not_read_and_links_are_followed(name: str, bank: Bank, tmp_path: Path) -> None:
    folder, mine = tmp_path / "b", tmp_path / "mine"
    shutil.copytree(bank.path, folder)
    (folder / name).rename(mine)
    (folder / name).symlink_to(mine)
    assert len(BankDataset(Pictures(), folder)) == 30
    values = json.loads((bank.path / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | {"done": 8}))
    make(folder)
    assert contents(folder) == contents(bank.path), "and continued"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=name):
        BankDataset(Pictures(), folder)


@pytest.mark.parametrize("settings", [{}, {"noise": 0.1}, {"partners": "batch", "gate": None}])
def test_images_are_encoded_once_and_variants_are_those_of_calls(
    tmp_path: Path, counted: Counted, settings: dict[str, Any]
) -> None:
    data = Pictures()
    made = make(tmp_path, data, variants=5, batch_size=30, **settings)
    assert sum(counted.encoded) == 30
    nfa = NFAugment(checkpoint(), p=1.0, **settings)
    for number in range(5):
        nfa.generator = SharedGenerator().manual_seed(seed_of(0, number, 0))
        new = nfa(data.images, torch.tensor(data.targets))[0].permute(0, 2, 3, 1)
        difference = np.abs(made.variants[:, number].astype(int) - new.numpy())
        assert difference.max() <= 1, "rounding: the order of the images differs"
        assert (difference > 0).mean() < 1e-3


class Odd(Pictures):
    """Its images are floats in data-loader workers."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return (pil_to_tensor(image).float() if get_worker_info() else image), label


def test_errors_of_workers_have_one_line(tmp_path: Path) -> None:
    mixed = Pictures()
    mixed.images = [image[:, : 8 - i // 29] for i, image in enumerate(mixed.images)]
    for data, word in ((mixed, "--image-size"), (Odd(), "lie in")):
        with pytest.raises(ValueError, match=word) as raised:
            make(tmp_path / word, data, workers=1)
        assert "Traceback" not in str(raised.value)


def test_each_file_is_read_once_for_its_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once before, for the hash of the data set."""
    data = save_pictures(tmp_path / "data")
    reads: list[str] = []

    def counted(file: Path, name: str) -> bytes:
        reads.append(name)
        return source.read_part(file, name)

    monkeypatch.setattr(folders, "read_part", counted)
    images = open_dataset(data, image_size=8, channels=3)
    made = make(tmp_path / "bank", images)
    assert len(made) == 30
    assert sorted(Counter(reads).values()) == [2] * 30
