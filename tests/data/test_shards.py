"""WebDataset shards and parquet files give the images of the folder that they were made from."""

from __future__ import annotations

import gc
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
from nfa_tools import NAMES

from nfaug.data.decode import ImageDecodeError
from nfaug.data.images import LabelledImages
from nfaug.data.open import MissingSplitError, open_dataset


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
    from datasets import Dataset

    file.parent.mkdir(exist_ok=True)
    Dataset.from_dict({"image": images, "label": labels}, **columns).to_parquet(file)
    return file


def parquet_from(folder: Path, out: Path) -> Path:
    """Two parquet files as Hugging Face's hub has them."""
    from datasets import ClassLabel, Features
    from datasets import Image as Images

    features = Features({"image": Images(), "label": ClassLabel(names=list(NAMES))})
    data = open_dataset(folder)
    files = [{"bytes": Path(data.name(i)).read_bytes(), "path": None} for i in range(len(data))]
    for number, part in enumerate((slice(0, 20), slice(20, None))):
        file = out / f"train-{number:05}-of-00002.parquet"
        write_parquet(file, files[part], data.targets[part].tolist(), features=features)
    return out


MAKERS: dict[str, Callable[[Path, Path], object]] = {
    "wds": wds_from,
    "parquet": parquet_from,
    "hfds": lambda folder, out: f"hfds/{parquet_from(folder, out)}",
}


@pytest.fixture(scope="module")
def places(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("shards")
    return {name: str(make(tiny_folder, root / name)) for name, make in MAKERS.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of `datasets` in a temporary folder."""
    import datasets

    folder = tmp_path_factory.getbasetemp() / "datasets-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    datasets.disable_progress_bars()


def check_equal(found: LabelledImages, expected: LabelledImages) -> None:
    assert found.classes == expected.classes
    assert torch.equal(found.targets, expected.targets)
    assert found.preprocessing == expected.preprocessing
    for index in range(len(expected)):
        assert torch.equal(found.image(index), expected.image(index))
        assert found.reader.content(index) == expected.reader.content(index)


@pytest.mark.parametrize("name", MAKERS)
def test_shards_equal_the_folder(places: dict[str, str], tiny_folder: Path, name: str) -> None:
    found = open_dataset(places[name])
    check_equal(found, open_dataset(tiny_folder))
    assert found.fingerprint() == open_dataset(places[name]).fingerprint()
    assert found.fingerprint() != found.subset(torch.arange(4)).fingerprint()
    assert places[name] in found.name(0)
    with pytest.raises(MissingSplitError, match="train"):
        open_dataset(places[name], split="test")


def test_single_shards(places: dict[str, str], tiny_folder: Path, tmp_path: Path) -> None:
    single = wds_from(tiny_folder, tmp_path / "single", per_shard=100) / "train-000000.tar"
    check_equal(open_dataset(single), open_dataset(tiny_folder))
    for split in ("test", "banana"):
        with pytest.raises(MissingSplitError, match=split):
            open_dataset(single, split=split)
    shutil.copy(single, tmp_path / "val-0.tar")
    assert len(open_dataset(tmp_path / "val-0.tar", split="test")) == 36


@pytest.mark.parametrize("layout", ["{kind}/{number}.tar", "my-{kind}-{number}.tar"])
def test_splits(places: dict[str, str], tmp_path: Path, layout: str) -> None:
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


def test_a_picture_of_the_shards_is_not_the_data(places: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(places["wds"], tmp_path / "wds")
    (tmp_path / "wds" / "preview.png").write_bytes(png())
    assert len(open_dataset(tmp_path / "wds")) == 36


def test_without_datasets_the_error_names_the_extra(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("parquet", "hfds"):
        with pytest.raises(ModuleNotFoundError, match=r"nfaug\[datasets\]"):
            open_dataset(places[name])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.cls": b"1"}, "image"),
        ({"0.png": b"", "1.png": b"", "1.cls": b"0"}, "cls"),
        ({"0.png": b"", "0.cls": b"cat"}, "cat"),
        ({"0.jpg": b"", "0.png": b"", "0.cls": b"1"}, "one image"),
        ({"0.png": b"", "0.cls": b"9" * 30}, "65536"),
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


@pytest.mark.parametrize("again", [["0.cls"], ["0.png", "0.cls"], ["0.PNG"]])
def test_keys_that_repeat(tmp_path: Path, again: list[str]) -> None:
    """They would be one sample with the label of the last one."""
    files = [("0.png", png()), ("0.cls", b"0"), ("1.png", png()), ("1.cls", b"1")]
    pack(tmp_path / "0.tar", [*files, *((name, b"1") for name in again)])
    with pytest.raises(ValueError, match="twice"):
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


def test_rows_read_no_file_outside_of_the_data(tmp_path: Path) -> None:
    """Not by an absolute path, not upwards, not through a link; and nothing but regular files."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "private.png").write_bytes(png())
    (data / "link.png").symlink_to(tmp_path / "private.png")
    (data / "inside.jpg").write_bytes(png())
    os.mkfifo(data / "pipe.png")
    paths = [str(tmp_path / "private.png"), "../private.png", "link.png", "/dev/zero", "pipe.png"]
    rows = [{"bytes": None, "path": path} for path in [*paths, "inside.jpg"]]
    file = write_parquet(data / "0.parquet", rows, [0] * len(rows))
    for source in (file, f"hfds/{data}"):
        found = open_dataset(source, image_size=4, channels=1)
        for index, path in enumerate(paths):
            with pytest.raises(ValueError, match=Path(path).name):
                found[index]
        assert found[5][0].shape == (1, 4, 4)


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of `datasets`
def test_a_folder_with_a_table_of_labels(tmp_path: Path) -> None:
    """Hugging Face's metadata.csv, with words as labels."""
    for name in "012":
        (tmp_path / f"{name}.png").write_bytes(png(int(name)))
    rows = ["file_name,label", "0.png,dog", "1.png,cat", "2.png,dog"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    found = open_dataset(f"hfds/{tmp_path}")
    assert found.classes == ["cat", "dog"]
    assert found.targets.tolist() == [1, 0, 1]
    assert [int(image.max()) for image, _ in found] == [0, 1, 2]
    gc.collect()  # `datasets` leaves the table open


def test_wrong_tables(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "0.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(tmp_path)
    for columns in ({"picture": [1], "label": [0]}, {"image": [1], "label": [0]}):
        Dataset.from_dict(columns).to_parquet(tmp_path / "0.parquet")
        with pytest.raises(ValueError, match="image"):
            open_dataset(tmp_path)
