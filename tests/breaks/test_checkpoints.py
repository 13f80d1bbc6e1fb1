"""Checkpoints and saved states: pickles, forged states."""

from __future__ import annotations

import json
import runpy
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.checkpoint import bounded

import nfaug
from nfaug.io.errors import FileError
from nfaug.training.snapshots import Snapshot, Snapshots

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_released.py"


def endless_pickle() -> bytes:
    """A dictionary whose key is a pair of pairs, 30 deep: to hash it takes 2^30 steps."""
    pair = b"q\x00h\x00\x86"  # put into the memo, get it again, make a pair
    return b"\x80\x02}" + b")" + 30 * pair + b"Ns."


def flooding_pickle() -> bytes:
    """A bytearray of 2^40 zeros."""
    number = (2**40).to_bytes(6, "little")
    return b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + number + b"\x85R."


@pytest.mark.parametrize("make", [endless_pickle, flooding_pickle])
def test_a_tiny_pickle_is_not_converted(
    make: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 4: a pickle of few bytes kept the conversion of released weights busy for ever."""
    whole = tmp_path / "whole.ckpt"
    file = tmp_path / "released.ckpt"
    torch.save({}, whole)
    with zipfile.ZipFile(whole) as good, zipfile.ZipFile(file, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, make() if name.endswith("data.pkl") else good.read(name))
    monkeypatch.setattr(sys, "argv", ["", str(file), str(tmp_path / "flow")])
    with bounded("a pickle"), pytest.raises(FileError, match=r"released\.ckpt"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not (tmp_path / "flow").exists()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with one saved state."""
    facts = {
        "optimizer": {"steps": 8, "rate": 0.1},
        "epoch": 2,
        "finished": False,
        "history": [{"epoch": 1, "nf_acc": 0.5}],
    }
    Snapshots(tmp_path).save(Snapshot({"losses": torch.zeros(3)}, facts))
    return tmp_path


def forge(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    (file,) = run.glob("state/*/state.json")
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.update(epoch=1),
        lambda facts: facts.update(finished=True),
        lambda facts: facts["history"][0].update(nf_acc=0.99),
        lambda facts: facts["optimizer"].update(rate=10.0),
        lambda facts: facts["fixed"].update(seed=1),
        lambda facts: facts.pop("sha256"),
    ],
)
def test_a_forged_state_is_not_resumed(
    change: Callable[[dict[str, Any]], object], run: Path
) -> None:
    """Break 11 (and 47): other figures and epochs in state.json were resumed."""
    snapshots = Snapshots(run)
    found = snapshots.newest()
    assert found is not None
    assert found.facts["history"] == [{"epoch": 1, "nf_acc": 0.5}]
    forge(run, change)
    with pytest.raises(ValueError, match="step-000000008"):
        snapshots.newest()


def test_a_state_of_another_layout_is_the_same_state(run: Path) -> None:
    """Break 11 (and 47): the hash is that of the values, so an indented copy can be resumed."""
    forge(run, lambda facts: None)
    assert Snapshots(run).newest() is not None


def test_a_state_without_a_hash_names_its_format(run: Path) -> None:
    """Break 11 (and 47): states that were saved without a hash are refused."""
    forge(run, lambda facts: facts.update(format=4))
    with pytest.raises(ValueError, match="format is 4"):
        Snapshots(run).newest()


@pytest.mark.parametrize("digest", [None, "", 7, "0" * 63, "0" * 65, "Z" * 64, ["0" * 64]])
@pytest.mark.parametrize("name", ["model.safetensors", "pca.safetensors"])
def test_a_hash_has_64_digits(tmp_path: Path, name: str, digest: object) -> None:
    """Break 116: null in the place of a file's hash switched the comparison off."""
    nfaug.load("builtin:rgb32").save(tmp_path / "flow")
    config = tmp_path / "flow" / "config.json"
    values = json.loads(config.read_text())
    values["files"][name] = digest
    config.write_text(json.dumps(values))
    with pytest.raises(nfaug.CheckpointError, match=f"64 hexadecimal digits for {name}"):
        nfaug.load(tmp_path / "flow")
