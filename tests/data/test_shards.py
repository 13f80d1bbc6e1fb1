"""WebDataset shards give the images of the folder that they were made from."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from tools.images import png
from tools.libraries import needs
from tools.nfa import NAMES

from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.data.source import pixels_sha256
from nfaug.data.sources.layout import MissingSplitError


def pack(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def wds_from(folder: Path, out: Path, per_shard: int = 10) -> Path:
    """Shards with the bytes of the files of a folder, in its order."""
    data, files = open_dataset(folder), list[tuple[str, bytes]]()
    for index in range(len(data)):
        files += [(f"{index:06}.png", Path(data.name(index)).read_bytes())]
        files += [(f"{index:06}.cls", str(int(data.targets[index])).encode())]
    for number, start in enumerate(range(0, len(files), 2 * per_shard)):
        pack(out / f"train-{number:06}.tar", files[start : start + 2 * per_shard])
    (out / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    return out


@pytest.fixture(scope="module")
def shards(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder's images in shards."""
    return wds_from(tiny_folder, tmp_path_factory.mktemp("data") / "shards")


def check_equal(found: Images, expected: Images) -> None:
    assert found.classes == expected.classes
    assert torch.equal(found.targets, expected.targets)
    assert found.preprocessing == expected.preprocessing
    for index in range(len(expected)):
        assert torch.equal(found.image(index), expected.image(index))
        hashes = [pixels_sha256(images.source.read(index)) for images in (found, expected)]
        assert hashes[0] == hashes[1]


def test_shards_equal_the_folder(shards: Path, tiny_folder: Path) -> None:
    found = open_dataset(shards)
    check_equal(found, open_dataset(tiny_folder))
    assert found.fingerprint() == open_dataset(shards).fingerprint()
    assert found.fingerprint() != found.subset(torch.arange(4)).fingerprint()
    assert str(shards) in found.name(0)
    with pytest.raises(MissingSplitError, match="train"):
        open_dataset(shards, split="test")


def test_single_shards(tiny_folder: Path, tmp_path: Path) -> None:
    single = wds_from(tiny_folder, tmp_path / "single", per_shard=100) / "train-000000.tar"
    check_equal(open_dataset(single), open_dataset(tiny_folder))
    for split in ("test", "banana"):
        with pytest.raises(MissingSplitError, match=split):
            open_dataset(single, split=split)
    shutil.copy(single, tmp_path / "val-0.tar")
    assert len(open_dataset(tmp_path / "val-0.tar", split="test")) == 36


@pytest.mark.parametrize("layout", ["{kind}/{number}.tar", "my-{kind}-{number}.tar"])
def test_splits(shards: Path, tmp_path: Path, layout: str) -> None:
    for number, shard in enumerate(sorted(shards.glob("*.tar"))):
        name = layout.format(kind=("train", "validation")[number % 2], number=number)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(shard, tmp_path / name)
    (tmp_path / "classnames.txt").write_text("\ufeffcat\ndog\neel\n")  # as Windows writes it
    for pipe in ("train-9.tar", "_info.json"):
        os.mkfifo(tmp_path / pipe)
    lengths = {
        split: len(open_dataset(tmp_path, split=split)) for split in ("train", "val", "test")
    }
    assert lengths == {"train": 20, "val": 16, "test": 16}
    assert open_dataset(tmp_path).classes == list(NAMES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.cls": b"1"}, "image"),
        ({"0.png": b"", "1.png": b"", "1.cls": b"0"}, "cls"),
        ({"0.png": b"", "0.cls": b"cat"}, "cat"),
        ({"0.jpg": b"", "0.png": b"", "0.cls": b"1"}, "one image"),
        ({"0.png": b"", "0.cls": b"9" * 18}, "65536"),
        ({"0.png": b"", "0.cls": b"-1"}, "-1"),
        ({"0.png": b"", "0.cls": b"3", "classnames.txt": b"cat\n"}, "label 3"),
    ],
)
def test_wrong_samples(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    if (names := files.pop("classnames.txt", None)) is not None:
        (tmp_path / "classnames.txt").write_bytes(names)
    pack(tmp_path / "0.tar", [*files.items()])
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)


def test_the_same_keys_in_two_shards_are_different_samples(tmp_path: Path) -> None:
    for number in range(2):
        files = [("0.png", png(100 * number)), ("0.cls", b"%d" % number)]
        pack(tmp_path / f"{number}.tar", files)
    found = open_dataset(tmp_path)
    assert found.paths == ["0.tar/0.png", "1.tar/0.png"]
    assert [int(image.max()) for image, _ in found] == [0, 100]


def test_the_image_of_a_sample_is_the_one_without_a_second_dot(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("0.cls", b"0"), ("0.depth.png", png(9)), ("0.png", png(200))])
    assert open_dataset(tmp_path)[0][0].unique().tolist() == [200]


# Parquet files and data sets of the Hub


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        ("hfds/owner/pictures", "'owner/pictures'"),
        ("hfds/owner/pictures/plain", "'owner/pictures'"),
        ("HFDS/owner/pictures", "'owner/pictures'"),
        ("tables/0.PARQUET", "'parquet', data_files='tables/0.PARQUET'"),
        ("tables", "'tables'"),
    ],
)
def test_what_the_package_datasets_reads(
    data: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the line of Python that reads such data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "0.PARQUET").touch()
    call = re.escape(f"datasets.load_dataset({arguments}, split='train'), with columns")
    with pytest.raises(ValueError, match=f"^{data!r} is read in Python: pass {call}"):
        open_dataset(data)


def test_parquet_files_in_python(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error says: the images, labels and names of the folder that the file was made from."""
    datasets = needs("datasets")
    folder = open_dataset(tiny_folder)
    rows = [{"bytes": Path(folder.name(i)).read_bytes(), "path": None} for i in range(len(folder))]
    labels = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    columns = {"image": rows, "label": folder.targets.tolist()}
    file = tmp_path / "images.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = datasets.load_dataset("parquet", data_files=str(file), split="train")
    check_equal(open_dataset(found), folder)
