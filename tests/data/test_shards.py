"""WebDataset shards and parquet files give the images of the folder that they were made from."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nfa_tools import NAMES
from PIL import Image

from nfaug.cli import main
from nfaug.data.class_folders import MissingSplitError
from nfaug.data.images import LabelledImages
from nfaug.data.open import open_dataset


def wds_from(folder: Path, out: Path, per_shard: int = 10) -> Path:
    """Shards with the bytes of the files of a folder, in its order."""
    from webdataset import ShardWriter

    out.mkdir()
    data = open_dataset(folder)
    with ShardWriter(str(out / "train-%06d.tar"), maxcount=per_shard, verbose=0) as shards:
        for index in range(len(data)):
            sample = {"__key__": f"{index:06}", "png": Path(data.name(index)).read_bytes()}
            shards.write({**sample, "cls": str(int(data.targets[index])).encode()})
    (out / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    return out


def parquet_from(folder: Path, out: Path) -> Path:
    """Two parquet files as Hugging Face's hub has them."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Images

    out.mkdir()
    data = open_dataset(folder)
    files = [{"bytes": Path(data.name(i)).read_bytes(), "path": None} for i in range(len(data))]
    columns = {"image": files, "label": data.targets.tolist()}
    features = Features({"image": Images(), "label": ClassLabel(names=list(NAMES))})
    table = Dataset.from_dict(columns, features=features)
    for number in range(2):
        half = table.select(range(number * 20, min(36, number * 20 + 20)))
        half.to_parquet(out / f"train-{number:05}-of-00002.parquet")
    return out


MAKERS: dict[str, Callable[[Path, Path], object]] = {
    "wds": wds_from,
    "parquet": parquet_from,
    "hfds": lambda folder, out: f"hfds/{parquet_from(folder, out)}",  # through timm and datasets
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


@pytest.mark.parametrize("name", MAKERS)
def test_shards_equal_the_folder(places: dict[str, str], tiny_folder: Path, name: str) -> None:
    found = open_dataset(places[name])
    check_equal(found, open_dataset(tiny_folder))
    assert found.fingerprint() == open_dataset(places[name]).fingerprint()
    assert found.fingerprint() != found.subset(torch.arange(4)).fingerprint()
    assert len(found.contents_hash()) == 64
    assert places[name] in found.name(0)
    with pytest.raises(MissingSplitError, match="'train'"):
        open_dataset(places[name], split="test")


def test_patterns_names_and_single_tars(
    places: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    expected, folder = open_dataset(tiny_folder), Path(places["wds"])
    pattern = "train-{000000..000003}.tar"
    check_equal(open_dataset(f"wds/{folder}/{pattern}"), expected)
    check_equal(open_dataset(f"wds/{pattern}", data_dir=folder), expected)
    check_equal(open_dataset("wds/anything", data_dir=folder), expected)
    single = wds_from(tiny_folder, tmp_path / "single", per_shard=100)
    check_equal(open_dataset(single / "train-000000.tar"), expected)
    for split in ("test", "banana"):
        with pytest.raises(MissingSplitError, match=split):
            open_dataset(single / "train-000000.tar", split=split)
    shutil.copy(single / "train-000000.tar", tmp_path / "val-0.tar")
    assert len(open_dataset(tmp_path / "val-0.tar", split="test")) == len(expected)
    with pytest.raises(FileNotFoundError, match="000004"):
        open_dataset(f"wds/{folder}/train-{{000000..000004}}.tar")
    with pytest.raises(FileNotFoundError, match="tar"):
        open_dataset("wds/nothing", data_dir=tiny_folder)


@pytest.mark.parametrize("layout", ["info", "folders", "names"])
def test_splits(places: dict[str, str], tmp_path: Path, layout: str) -> None:
    for number, shard in enumerate(sorted(Path(places["wds"]).glob("*.tar"))):
        kind = ("train", "validation")[number % 2]
        name = {"info": f"{number}.tar", "folders": f"{kind}/{number}.tar"}.get(
            layout, f"my-{kind}-{number}.tar"
        )
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(shard, tmp_path / name)
    if layout == "info":
        splits = {
            "train": {"filenames": ["0.tar", "2.tar"], "shard_lengths": [10, 10]},
            "validation": {"filenames": ["1.tar", "3.tar"], "shard_lengths": [10, 6]},
        }
        (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    (tmp_path / "classnames.txt").write_text("cat\ndog\neel\n")
    lengths = {
        split: len(open_dataset(tmp_path, split=split)) for split in ("train", "val", "test")
    }
    assert lengths == {"train": 20, "val": 16, "test": 16}
    assert open_dataset(tmp_path).classes == list(NAMES)


def test_labels_in_json(places: dict[str, str], tiny_folder: Path, tmp_path: Path) -> None:
    shard, expected = tmp_path / "train-000000.tar", open_dataset(tiny_folder)
    with tarfile.open(shard, "w") as tar:
        for index in range(len(expected)):
            image = Path(expected.name(index)).read_bytes()
            label = json.dumps({"label": int(expected.targets[index]), "width": 8}).encode()
            for ending, data in (("png", image), ("json", label)):
                member = tarfile.TarInfo(f"{index:06}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    check_equal(open_dataset(tmp_path), expected)
    check_equal(open_dataset(shard), expected)


def test_json_files_without_labels_are_no_shards(tiny_folder: Path, tmp_path: Path) -> None:
    """A tar of class folders whose images have notes beside them."""
    shutil.copytree(tiny_folder, tmp_path / "data")
    for image in [*(tmp_path / "data").rglob("*.png")]:
        image.with_suffix(".json").write_text('["a note"]')
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(tmp_path / "data", "data")
    check_equal(open_dataset(tmp_path / "data.tar"), open_dataset(tiny_folder))


def test_without_datasets_the_error_names_the_extra(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("parquet", "hfds"):
        with pytest.raises(ModuleNotFoundError, match=r"nfaug\[datasets\]"):
            open_dataset(places[name])


def test_tars_beside_images_are_not_the_data(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "data")
    (tmp_path / "data" / "backup.tar").touch()
    check_equal(open_dataset(tmp_path / "data"), open_dataset(tiny_folder))


def test_damaged_shards(tmp_path: Path) -> None:
    def shard(name: str, files: dict[str, bytes]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        with tarfile.open(folder / "0.tar", "w") as tar:
            for file, data in files.items():
                (folder / "x").write_bytes(data)
                tar.add(folder / "x", file)
        (folder / "x").unlink()
        return folder

    for name, files, message in (
        ("image", {"0.cls": b"1"}, "image"),
        ("label", {"0.png": b""}, "cls"),
        ("number", {"0.png": b"", "0.cls": b"cat"}, "cat"),
        ("key", {"0.png": b"", "0.json": b'{"class": 3}'}, "0.tar"),
        ("none", {"readme": b""}, "samples"),
        ("several", {"0.jpg": b"", "0.png": b"", "0.cls": b"1"}, "several"),
        ("fraction", {"0.png": b"", "0.json": b'{"label": 1.7}'}, r"1\.7"),
        ("large", {"0.png": b"", "0.cls": b"9" * 30}, "65535"),
        ("negative", {"0.png": b"", "0.cls": b"-1"}, "-1"),
    ):
        with pytest.raises(ValueError, match=message):
            open_dataset(shard(name, files))
    folder = shard("names", {"0.png": b"", "0.cls": b"3"})
    (folder / "classnames.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="1 names"):
        open_dataset(folder)
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "0.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="parquet"):
        open_dataset(tmp_path / "parquet")


def test_commands_give_the_numbers_of_the_folder(
    places: dict[str, str],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Train, fit, bank and eval, end to end."""
    found = []
    for kind, data in (("folder", tiny_folder), *places.items()):
        out = tmp_path / kind
        train = ["train", "--data", str(data), "--out", str(out / "flow"), "--epochs", "1"]
        train += ["--flow.steps", "[1,1]", "--flow.blocks", "[1,1]", "--flow.width", "[8,8]"]
        train += ["--pca.rank", "4", "--batch-size", "12", "--pictures", "false"]
        train += ["--trackers", "[]", "--prior.fixed-point.kld-weight", "20"]
        flow = ["--flow", str(out / "flow"), "--data", str(data)]
        *before, last = (
            train,
            ["fit", *flow, "--out", str(out / "fit"), "--rank", "4"],
            ["bank", *flow, "--out", str(out / "bank"), "--variants", "1"],
            ["eval", *flow, "--split", "train"],
        )
        for words in before:
            assert main(words) == 0
        capsys.readouterr()
        assert main([*last, "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        found.append(
            {
                "eval": figures,
                "variants": (out / "bank" / "variants.npy").read_bytes(),
                "flow": (out / "flow" / "model.safetensors").read_bytes(),
                "axes": (out / "fit" / "pca.safetensors").read_bytes(),
            }
        )
    assert all(figures == found[0] for figures in found[1:])


def test_the_image_of_a_sample_is_the_one_without_a_second_dot(tmp_path: Path) -> None:
    files: dict[str, bytes] = {"0.cls": b"0"}
    for name, level in (("0.depth.png", 9), ("0.png", 200)):
        data = io.BytesIO()
        Image.new("L", (4, 4), level).save(data, "PNG")
        files[name] = data.getvalue()
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert open_dataset(tmp_path)[0][0].unique().tolist() == [200]


def test_no_shard_or_image_lies_outside_of_the_data(places: dict[str, str], tmp_path: Path) -> None:
    from datasets import Dataset

    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(next(Path(places["wds"]).glob("*.tar")), data / "0.tar")
    for text, word in (
        ('{"splits": {"train": {"filenames": ["../0.tar"]}}}', "../0"),
        ('{"splits": {"train": "0:50"}}', "filenames"),
        ('{"splits": {"train": {}}}', "filenames"),
        ('{"splits": ["train"]}', "filenames"),
        ("{bad", "_info"),
    ):
        (data / "_info.json").write_text(text)
        with pytest.raises(ValueError, match=word):
            open_dataset(data)
    private = tmp_path / "private.png"
    Image.new("L", (4, 4)).save(private)
    for number, path in enumerate((str(private), "../private.png")):
        folder = tmp_path / f"parquet{number}"
        folder.mkdir()
        rows = {"image": [{"bytes": None, "path": path}], "label": [0]}
        Dataset.from_dict(rows).to_parquet(folder / "0.parquet")
        with pytest.raises(ValueError, match="private"):
            open_dataset(folder, image_size=4, channels=1)[0]


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0, None], ["cat", "dog"], [0, -1]])
def test_labels_of_parquet_are_whole_numbers(tmp_path: Path, labels: list[object]) -> None:
    from datasets import Dataset

    image = {"bytes": b"", "path": None}
    rows = {"image": [image, image], "label": labels}
    Dataset.from_dict(rows).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="'label'"):
        open_dataset(tmp_path)
