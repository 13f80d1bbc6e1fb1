"""A bank in shards: bit for bit the bank of one process, however it is divided."""

from __future__ import annotations

import gc
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nfa_tools import NAMES
from PIL import Image
from test_bank import Pictures, contents, make

from nfaug.bank import Bank, BankDataset, export_bank, merge_bank
from nfaug.bank.format import Manifest
from nfaug.bank.shards import Shard
from nfaug.cli import main

SMALL = {"batch_size": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make(tmp_path_factory.mktemp("whole") / "bank", **SMALL)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "bank"
    for index in (2, 0, 1):
        make(out, shard=(index, 3), **SMALL)
    merge_bank(out)
    return out


@pytest.mark.parametrize(("partners", "residual"), [("memory", True), ("batch", False)])
def test_any_division_gives_the_same_bank(
    partners: str, residual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "partners": partners, "residual": residual, "variants": 2}
    name = "residuals" if residual else "variants"
    one = make(tmp_path / "one", **settings)
    for count in (2, 3):
        for index in range(count):
            monkeypatch.setenv("RANK", str(index))  # as under torchrun
            make(tmp_path / f"{count}", shard=(index, count), **settings)
        merged = merge_bank(tmp_path / f"{count}")
        assert (np.asarray(getattr(merged, name)) == getattr(one, name)).all()
        assert (merged.applied == one.applied).all()
        assert (merged.labels == one.labels).all()
        assert merged.manifest.stats == one.manifest.stats
        assert merged.manifest.labels_sha256 == one.manifest.labels_sha256
        if residual:
            assert (merged.steps == one.steps).all()


def test_merging_copies_nothing(sharded: Path, whole: Bank) -> None:
    assert {path.name for path in sharded.iterdir()} == {
        "manifest.json", *(f"shard-0000{index}-of-00003" for index in range(3)),
    }  # fmt: skip
    merged = Bank(sharded)
    assert all(isinstance(part, np.memmap) for part in merged.variants.parts)
    assert len(pickle.dumps(merged)) < 2000
    assert merged.variants.shape == whole.variants.shape
    assert merged.variants.dtype == whole.variants.dtype
    for index in (0, 7, 8, 29, -1):
        assert (merged.variants[index] == whole.variants[index]).all()
        assert (merged.variants[index, 1] == whole.variants[index, 1]).all()
    with pytest.raises(IndexError):
        merged.variants[30]
    assert repr(merged).endswith("30 images, 3 variants each)")


def test_data_set_reads_shards(sharded: Path, whole: Bank) -> None:
    images = []
    for bank in (whole, Bank(sharded)):
        torch.manual_seed(0)
        data = BankDataset(Pictures(), bank, p=0.7)
        images.append(np.stack([np.array(data[i][0]) for i in range(30)]))
    assert (images[0] == images[1]).all()
    with pytest.raises(ValueError, match="%"):
        BankDataset(Pictures(seed=9), sharded)
    shard = Bank(sharded / "shard-00001-of-00003")
    assert shard.manifest.first == 8
    part = torch.utils.data.Subset(Pictures(), range(8, 8 + len(shard)))
    assert len(BankDataset(part, shard)) == len(shard), "a shard is a bank of its images"


def test_a_shard_is_continued_alone(whole: Bank, tmp_path: Path) -> None:
    class Fragile(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == 25 and self.reads > 15:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    make(tmp_path, shard=(0, 2), **SMALL)
    before = contents(tmp_path / "shard-00000-of-00002")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Fragile(), shard=(1, 2), **SMALL)
    with pytest.raises(ValueError, match="shard-00001-of-00002"):
        merge_bank(tmp_path)
    assert Manifest.load(tmp_path / "shard-00001-of-00002").done == 8
    make(tmp_path, shard=(1, 2), **SMALL)
    assert (np.asarray(merge_bank(tmp_path).variants) == whole.variants).all()
    assert contents(tmp_path / "shard-00000-of-00002") == before


def test_shards_that_do_not_fit(sharded: Path, whole: Bank, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="of 3"):
        make(sharded, shard=(0, 2), **SMALL)
    with pytest.raises(FileExistsError, match="one process"):
        make(whole.path, shard=(0, 2), **SMALL)
    with pytest.raises(ValueError, match="--shard"):
        make(sharded, **SMALL)
    with pytest.raises(ValueError, match="8 shards"):
        make(tmp_path / "many", shard=(0, 9), **SMALL)
    with pytest.raises(ValueError, match="--shard"):
        merge_bank(tmp_path)
    make(tmp_path, shard=(0, 2), **SMALL)
    make(tmp_path, shard=(1, 2), seed=1, **SMALL)
    with pytest.raises(ValueError, match="seed"):
        merge_bank(tmp_path)
    make(tmp_path, shard=(1, 2), overwrite=True, **SMALL)
    assert len(merge_bank(tmp_path)) == 30
    make(tmp_path, shard=(1, 2), overwrite=True, **SMALL)
    assert not (tmp_path / "manifest.json").exists(), "until they are merged again"


def test_numbers_of_shards() -> None:
    assert Shard.parse("3/8") == (3, 8)
    for text in ("8/8", "-1/8", "1", "1/0", "a/b"):
        with pytest.raises(ValueError, match="i/n"):
            Shard.parse(text)
    found = Shard.of_environment
    assert found({}) is None
    assert found({"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert found({"RANK": "0", "WORLD_SIZE": "1"}) is None
    task = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in
            (("ID", 5), ("MIN", 1), ("MAX", 9), ("STEP", 2), ("COUNT", 5))}  # fmt: skip
    assert found(task) == (2, 5)
    assert found({**task, "RANK": "1", "WORLD_SIZE": "2"}) == (5, 10)
    with pytest.raises(ValueError, match="--shard"):
        found({**task, "SLURM_ARRAY_TASK_COUNT": "3"})
    for name in ("COUNT", "MIN", "MAX"):
        with pytest.raises(ValueError, match=f"SLURM_ARRAY_TASK_{name} is missing"):
            found({key: x for key, x in task.items() if not key.endswith(name)})
    assert found(
        {key: x for key, x in task.items() if not key.endswith("STEP")}
        | {"SLURM_ARRAY_TASK_MAX": "5"}
    ) == (4, 5)
    rows = [Shard(index, 3).rows(30, 4) for index in range(3)]
    assert rows == [range(0, 8), range(8, 20), range(20, 30)]


def test_the_command(
    tiny_path: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["bank", "--flow", str(tiny_path), "--data", str(tiny_folder), "--batch-size=4"]
    words += ["--gate=off", "--residual", "--variants=2", "--json"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["bytes"] == 36 * 2 * (8 * 8 + 2)
    assert main([*words, "--workers=2", "--out", str(tmp_path / "workers")]) == 0
    capsys.readouterr()
    name = "residuals.npy"
    assert (tmp_path / "workers" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    out = str(tmp_path / "ranks")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main([*words, "--out", out]) == 0
    assert capsys.readouterr().out == "", "the main process prints the result"
    monkeypatch.setenv("RANK", "0")
    assert main([*words, "--out", out]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["shard"], result["complete_shards"], result["images"]) == ("0/2", 2, 36)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert (np.asarray(Bank(out).residuals) == Bank(tmp_path / "one").residuals).all()
    tasks = str(tmp_path / "tasks")
    assert main([*words, "--out", tasks, "--shard", "1/2"]) == 0
    capsys.readouterr()
    assert main(["bank", "--merge", "--out", tasks]) == 2
    assert "shard-00000-of-00002" in capsys.readouterr().err
    assert main([*words, "--out", tasks, "--shard", "0/2", "--export", "x"]) == 2
    assert "--merge" in capsys.readouterr().err
    assert main([*words, "--out", tasks, "--shard", "0/2"]) == 0
    merge = ["bank", "--merge", "--out", tasks, "--json", "--export", str(tmp_path / "images")]
    assert main(merge) == 2
    assert "--data" in capsys.readouterr().err
    merge += ["--flow", str(tiny_path), "--data", str(tiny_folder), "--image-size", "20"]
    assert main(merge) == 0
    written = json.loads(capsys.readouterr().out)
    assert sum(written["exported"].values()) == written["applied"] == one["applied"]
    with Image.open(next((tmp_path / "images" / "cat").iterdir())) as image:
        assert image.size == (20, 20)
    assert main(["bank", "--out", "x"]) == 2
    assert "--flow" in capsys.readouterr().err


@pytest.mark.filterwarnings(  # webdataset leaves the shards that it reads open
    "ignore:unclosed file:ResourceWarning"
)
def test_export_as_webdataset(whole: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset
    from timm.data import create_dataset
    from webdataset import WebDataset

    class Small(webdataset.ShardWriter):
        """It has a limit of bytes by default, of 3 GB."""

        def __init__(self, *given: Any, maxsize: float = 1e4, **options: Any) -> None:
            super().__init__(*given, maxsize=maxsize, **options)

    monkeypatch.setattr(webdataset, "ShardWriter", Small)
    written = export_bank(whole, tmp_path, format="wds", per_shard=50, progress=False)
    total = int(whole.applied.sum())
    assert sum(written.values()) == total
    split = json.loads((tmp_path / "_info.json").read_text())["splits"]["train"]
    assert split["shard_lengths"] == [50, total - 50]
    assert (tmp_path / "classnames.txt").read_text().split() == list(NAMES)
    shards = [str(tmp_path / name) for name in split["filenames"]]
    samples = [
        *WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls")
    ]
    assert len(samples) == total
    for key, pixels, label in samples:
        image, variant = map(int, key.split("-"))
        assert (pixels == whole.variants[image, variant]).all()
        assert label == whole.labels[image]
    reader = create_dataset("wds/bank", root=str(tmp_path), split="train", is_training=False)
    labels = sorted(label for _, label in reader)
    del reader
    gc.collect()
    assert labels == sorted(label for _, _, label in samples)
