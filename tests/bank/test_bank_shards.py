"""A bank in shards: bit for bit the bank of one process, however it is divided."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tools.bank import READS_BEFORE, Pictures, contents, make
from torch.utils.data import Subset

from nfaug.bank import Bank, BankDataset
from nfaug.bank.format import Manifest
from nfaug.bank.shards import shard_rows
from nfaug.cli import main

SMALL = {"batch_size": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make(tmp_path_factory.mktemp("whole") / "bank", **SMALL)


def stacked(bank: Bank, name: str) -> np.ndarray:
    return np.concatenate([getattr(shard, name) for shard in bank.shards])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "bank"
    for index in (2, 0, 1):
        make(out, shard=(index, 3), **SMALL)
    return out


@pytest.mark.parametrize("partners", ["memory", "batch"])
def test_any_division_gives_the_same_bank(
    partners: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "partners": partners, "variants": 2}
    one = make(tmp_path / "one", **settings)
    for count in (2, 3):
        for index in range(count):
            monkeypatch.setenv("RANK", str(index))  # as under torchrun
            make(tmp_path / f"{count}", shard=(index, count), **settings)
        merged = Bank(tmp_path / f"{count}")
        assert (stacked(merged, "variants") == one.variants).all()
        for name in ("applied", "labels", "hashes"):
            assert (getattr(merged, name) == getattr(one, name)).all()
        assert merged.manifest == replace(one.manifest, labels_sha256="")


def test_merging_copies_nothing(sharded: Path, whole: Bank) -> None:
    assert {path.name for path in sharded.iterdir()} == {
        f"shard-0000{index}-of-00003" for index in range(3)
    }
    merged = Bank(sharded)
    assert all(isinstance(shard.variants, np.memmap) for shard in merged.shards)
    assert len(pickle.dumps(merged)) < 2000
    for index in (0, 7, 8, 29, -1):
        assert (merged.variant(index, 1) == whole.variants[index, 1]).all()
    with pytest.raises(IndexError):
        merged.variant(30, 1)
    images = []
    for bank in (whole, Bank(sharded)):
        torch.manual_seed(0)
        data = BankDataset(Pictures(), bank, p=0.7)
        images.append(np.stack([np.array(data[i][0]) for i in range(30)]))
    assert (images[0] == images[1]).all()
    with pytest.raises(ValueError, match="image 0"):
        BankDataset(Pictures(seed=9), sharded)
    shard = Bank(sharded / "shard-00001-of-00003")
    assert shard.manifest.first == 8
    part = Subset(Pictures(), range(8, 8 + len(shard)))
    assert len(BankDataset(part, shard)) == len(shard), "a shard is a bank of its images"


def test_a_shard_is_continued_alone(whole: Bank, tmp_path: Path) -> None:
    class Fragile(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == 25 and self.reads >= READS_BEFORE:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    make(tmp_path, shard=(0, 2), **SMALL)
    before = contents(tmp_path / "shard-00000-of-00002")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Fragile(), shard=(1, 2), **SMALL)
    with pytest.raises(ValueError, match="shard-00001-of-00002"):
        Bank(tmp_path)
    assert Manifest.load(tmp_path / "shard-00001-of-00002").done == 8
    make(tmp_path, shard=(1, 2), **SMALL)
    assert (stacked(Bank(tmp_path), "variants") == whole.variants).all()
    assert contents(tmp_path / "shard-00000-of-00002") == before


def test_numbers_of_shards(tmp_path: Path) -> None:
    wrong: list[Any] = [(2, 2), (0, 0), (-1, 2), ("0", "2"), (0.0, 2.0)]
    for shard in wrong:
        with pytest.raises(ValueError, match="i/n"):
            make(tmp_path, shard=shard)
    rows = [shard_rows(index, 3, 30, 4) for index in range(3)]
    assert rows == [range(0, 8), range(8, 20), range(20, 30)]


def test_the_command(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bank", "--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--batch-size=4"]
    words += ["--gate=none", "--variants=2", "--json"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["bytes"] == 36 * 2 * 8 * 8
    assert main([*words, "--workers=2", "--out", str(tmp_path / "workers")]) == 0
    capsys.readouterr()
    assert contents(tmp_path / "workers") == contents(tmp_path / "one")
    out = str(tmp_path / "shards")
    assert main([*words, "--out", out, "--shard", "1/2"]) == 0
    capsys.readouterr()
    assert main([*words, "--out", out, "--shard", "0/2", "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err
    assert main([*words, "--out", out, "--shard", "0-2"]) == 2
    assert "0-2" in capsys.readouterr().err
    assert main([*words, "--out", out, "--shard", "0/2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["shard"], result["complete_shards"], result["images"]) == ("0/2", 2, 36)
    assert (stacked(Bank(out), "variants") == Bank(tmp_path / "one").variants).all()
