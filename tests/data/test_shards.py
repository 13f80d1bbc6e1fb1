"""WebDataset shards and parquet files give the images of the folder that they were made from."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_tools import png
from hub_tools import FakeHub
from huggingface_hub import constants
from library_tools import needs
from nfa_tools import NAMES

from nfaug.data.decode import ImageDecodeError
from nfaug.data.images import LabelledImages
from nfaug.data.open import MissingSplitError, open_dataset
from nfaug.data.sources import tables
from nfaug.hub import HubError


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


def write_parquet(file: Path, images: list[Any], labels: list[Any], **columns: Any) -> Path:
    dataset = needs("datasets").Dataset
    file.parent.mkdir(exist_ok=True)
    dataset.from_dict({"image": images, "label": labels}, **columns).to_parquet(file)
    return file


def parquet_from(folder: Path, out: Path) -> Path:
    """Two parquet files as Hugging Face's hub has them."""
    datasets = needs("datasets")
    labels = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    data = open_dataset(folder)
    files = [{"bytes": Path(data.name(i)).read_bytes(), "path": None} for i in range(len(data))]
    for number, part in enumerate((slice(0, 20), slice(20, None))):
        file = out / f"train-{number:05}-of-00002.parquet"
        write_parquet(file, files[part], data.targets[part].tolist(), features=features)
    return out


MAKERS: dict[str, Callable[[Path, Path], object]] = {
    "wds": wds_from,
    "parquet": parquet_from,
}


class Places(dict[str, str]):
    """The folder's images in each format, written when a test first asks for it."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root

    def __missing__(self, name: str) -> str:
        self[name] = str(MAKERS[name](self.folder, self.root / name))
        return self[name]


@pytest.fixture(scope="module")
def places(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tiny_folder, tmp_path_factory.mktemp("shards"))


def check_equal(found: LabelledImages, expected: LabelledImages) -> None:
    assert found.classes == expected.classes
    assert torch.equal(found.targets, expected.targets)
    assert found.preprocessing == expected.preprocessing
    for index in range(len(expected)):
        assert torch.equal(found.image(index), expected.image(index))
        assert found.sha256(index, pixels=True) == expected.sha256(index, pixels=True)


@pytest.mark.parametrize("name", MAKERS)
def test_shards_equal_the_folder(places: Places, tiny_folder: Path, name: str) -> None:
    found = open_dataset(places[name])
    check_equal(found, open_dataset(tiny_folder))
    assert found.fingerprint() == open_dataset(places[name]).fingerprint()
    assert found.fingerprint() != found.subset(torch.arange(4)).fingerprint()
    assert places[name] in found.name(0)
    with pytest.raises(MissingSplitError, match="train"):
        open_dataset(places[name], split="test")


def test_single_shards(places: Places, tiny_folder: Path, tmp_path: Path) -> None:
    single = wds_from(tiny_folder, tmp_path / "single", per_shard=100) / "train-000000.tar"
    check_equal(open_dataset(single), open_dataset(tiny_folder))
    for split in ("test", "banana"):
        with pytest.raises(MissingSplitError, match=split):
            open_dataset(single, split=split)
    shutil.copy(single, tmp_path / "val-0.tar")
    assert len(open_dataset(tmp_path / "val-0.tar", split="test")) == 36


@pytest.mark.parametrize("layout", ["{kind}/{number}.tar", "my-{kind}-{number}.tar"])
def test_splits(places: Places, tmp_path: Path, layout: str) -> None:
    for number, shard in enumerate(sorted(Path(places["wds"]).glob("*.tar"))):
        name = layout.format(kind=("train", "validation")[number % 2], number=number)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(shard, tmp_path / name)
    (tmp_path / "classnames.txt").write_text("cat\ndog\neel\n")
    for pipe in ("train-9.tar", "_info.json"):
        os.mkfifo(tmp_path / pipe)
    lengths = {
        split: len(open_dataset(tmp_path, split=split)) for split in ("train", "val", "test")
    }
    assert lengths == {"train": 20, "val": 16, "test": 16}
    assert open_dataset(tmp_path).classes == list(NAMES)


def test_without_pyarrow_the_error_names_the_extra(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places["parquet"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"\[parquet\]"):
        open_dataset(place)


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


# Rows of parquet files


def test_empty_rows_are_named_or_skipped(tmp_path: Path) -> None:
    image = {"bytes": png(), "path": None}
    rows = [image, None, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}]
    file = write_parquet(tmp_path / "0.parquet", rows, [0] * 4)
    found = open_dataset(file, image_size=4, channels=1)
    for index in (1, 2, 3):
        with pytest.raises(ImageDecodeError, match=f"image {index} "):
            found[index]
    assert len(open_dataset(file, on_error="skip").skipped) == 3


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0, None], [0, -1], [0, 10**9]])
def test_labels_of_parquet_are_whole_numbers(tmp_path: Path, labels: list[object]) -> None:
    file = write_parquet(tmp_path / "0.parquet", [{"bytes": png(), "path": None}] * 2, labels)
    with pytest.raises(ValueError, match="label"):
        open_dataset(file)


def test_wrong_tables(tmp_path: Path) -> None:
    dataset = needs("datasets").Dataset
    (tmp_path / "0.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(tmp_path)
    for columns in ({"picture": [1], "label": [0]}, {"image": [1], "label": [0]}):
        dataset.from_dict(columns).to_parquet(tmp_path / "0.parquet")
        with pytest.raises(ValueError, match="image"):
            open_dataset(tmp_path)


# Data sets of the Hub


@pytest.fixture
def hosted(places: Places, hub: FakeHub) -> FakeHub:
    """The parquet files as the Hub has them: in a folder, with a card and another split."""
    folder = Path(places["parquet"])
    files = {f"plain/{file.name}": file.read_bytes() for file in folder.glob("*.parquet")}
    files["plain/test-00000-of-00001.parquet"] = files["plain/train-00001-of-00002.parquet"]
    hub.add("owner/pictures", {"README.md": b"---\n---\n", **files})
    return hub


def test_a_data_set_of_the_hub(hosted: FakeHub, tiny_folder: Path) -> None:
    check_equal(open_dataset("hfds/owner/pictures"), open_dataset(tiny_folder))
    assert hosted.fetched() == [
        f"plain/train-{number:05}-of-00002.parquet" for number in range(2)
    ], "the files of the split alone"
    assert len(open_dataset("hfds/owner/pictures", split="test")) == 16
    assert len(open_dataset("hfds/owner/pictures/plain", split="test")) == 16


def test_a_data_set_of_the_hub_without_a_network(
    hosted: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_dataset("hfds/owner/pictures").fingerprint()
    hosted.up = False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_dataset("hfds/owner/pictures").fingerprint() == before
    with pytest.raises(HubError, match="owner/others"):
        open_dataset("hfds/owner/others")


def test_data_sets_of_the_hub_that_are_refused(
    hosted: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two configurations, files of other kinds, none at all, and more than memory holds."""
    files = hosted.files("owner/pictures")
    hosted.add(
        "owner/pictures", {"other/train-0.parquet": files["plain/train-00000-of-00002.parquet"]}
    )
    with pytest.raises(ValueError, match=r"'other'.*'plain'"):
        open_dataset("hfds/owner/pictures")
    assert len(open_dataset("hfds/owner/pictures/other")) == 20
    hosted.add("owner/scripts", {"load.py": b"import os"})
    with pytest.raises(ValueError, match=r"datasets\.load_dataset"):
        open_dataset("hfds/owner/scripts")
    with pytest.raises(HubError, match="owner/nothing"):
        open_dataset("hfds/owner/nothing")
    monkeypatch.setattr(tables, "MOST_BYTES", 100)
    hosted.requests.clear()
    with pytest.raises(ValueError, match="over 100"):
        open_dataset("hfds/owner/pictures/other")
    assert hosted.fetched() == []


def test_parquet_files_of_pandas_and_of_other_columns(tmp_path: Path) -> None:
    """Their metadata hold the rows' numbers, which differ; what differs in the data is an error."""
    pyarrow = needs("pyarrow")
    from pyarrow import parquet

    for number in range(2):
        table = pyarrow.table({"image": [png(number)], "label": ["cat"]})
        table = table.replace_schema_metadata({"pandas": f'{{"start": {number}}}'})
        parquet.write_table(table, tmp_path / f"train-{number}.parquet")
    found = open_dataset(tmp_path)
    assert (len(found), found.classes) == (2, ["cat"])
    other = {"image": pyarrow.array([png()], pyarrow.large_binary()), "label": ["cat"]}
    parquet.write_table(pyarrow.table(other), tmp_path / "train-2.parquet")
    with pytest.raises(ValueError, match="other columns"):
        open_dataset(tmp_path)
    tables_of = {"a": {"label": [1]}, "b": {"image": [None], "label": [1]}}
    for name, columns in tables_of.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match="column"):
            open_dataset(tmp_path / f"{name}.parquet")
    empty = pyarrow.table({"image": pyarrow.array([], pyarrow.binary()), "label": []})
    parquet.write_table(empty, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="no rows"):
        open_dataset(tmp_path / "c.parquet")
