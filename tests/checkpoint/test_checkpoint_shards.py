"""PCA axes in several files: written by size, joined again strictly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_tools import sign
from safetensors.torch import load_file, save_file
from torch import Tensor

from nfaug.checkpoint import directory
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointError, load
from nfaug.checkpoint.pca_shards import pca_names
from nfaug.classes.pca_fit import ClasswisePCA

SHARDS = pca_names(3)
MISFIT = "dimension|match|shape|size|sorted|memory|classes"


@pytest.fixture(scope="module")
def made(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a file for each of its three classes. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "flow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory, "SHARD_BYTES", 1)
        return load(tiny_path).save(folder)


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "flow"))


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("pca*"))


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def same(one: ClasswisePCA | None, two: ClasswisePCA | None) -> None:
    assert one is not None
    assert two is not None
    ours, theirs = one.tensors(), two.tensors()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(one.offsets, two.offsets)


@pytest.mark.parametrize(
    ("most", "count", "memory"), [(1, 3, True), (2500, 2, True), (10**6, 1, True), (1, 3, False)]
)
def test_what_was_split_is_joined(
    most: int,
    count: int,
    memory: bool,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directory, "SHARD_BYTES", most)
    assert tiny_checkpoint.pca is not None
    if not memory:
        tiny_checkpoint.pca = tiny_checkpoint.pca.without_memory()
    path = tiny_checkpoint.save(tmp_path / "flow")
    assert names(path) == pca_names(count)
    files = {"model.safetensors", "gaussians.safetensors", *pca_names(count)}
    assert {file.name for file in path.glob("*.safetensors")} == files
    loaded = load(path)
    same(loaded.pca, tiny_checkpoint.pca)
    again = loaded.save(tmp_path / "again")
    for file in path.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_no_shard_of_the_old_checkpoint_survives(
    tiny_checkpoint: Checkpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, count in ((2500, 2), (10**6, 1), (1, 3)):
        monkeypatch.setattr(directory, "SHARD_BYTES", most)
        tiny_checkpoint.save(path, overwrite=True)
        assert names(path) == pca_names(count)
        load(path)
    tiny_checkpoint.pca = None
    tiny_checkpoint.save(path, overwrite=True)
    assert names(path) == []


# What is refused.


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_missing_or_damaged(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    refused(path, name)
    (path / name).unlink()
    refused(path, name)
    sign(path)  # by somebody who lists what is there
    refused(path, "shards")


@pytest.mark.parametrize(
    "listed",
    [
        SHARDS[:2],
        SHARDS[1:],
        [*SHARDS, "pca.safetensors"],
        ["pca-00001-of-00001.safetensors"],
    ],
    ids=lambda listed: "+".join(name[4:9] for name in listed),
)
def test_shards_that_are_no_set(path: Path, listed: list[str]) -> None:
    for name in listed:
        if not (path / name).exists():
            shutil.copyfile(path / SHARDS[0], path / name)

    def change(values: dict[str, dict[str, str]]) -> None:
        rest = {k: v for k, v in values["files"].items() if not k.startswith("pca")}
        values["files"] = rest | {name: values["files"].get(name, "0" * 64) for name in listed}

    sign(path, change)
    refused(path, r"shards|listed")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("memory", None, "other"),
        ("eigenvalues", None, "other"),
        ("foreign", lambda _: torch.zeros(1), "other"),
        ("axes", lambda t: t[:, :3], MISFIT),
        ("axes", lambda t: t.float(), MISFIT),
        ("ranks", lambda t: t.repeat(2), MISFIT),
        ("memory_labels", lambda t: t[1:], MISFIT),
        ("ranks", lambda t: t + 99, "ranks"),
        ("axes", lambda t: 2 * t, "class 1"),
    ],
)
def test_shards_that_do_not_fit_each_other(
    path: Path, key: str, change: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    tensors = load_file(path / SHARDS[1])
    value = tensors.pop(key, torch.zeros(1))
    if change is not None:
        tensors[key] = change(value).contiguous()
    save_file(tensors, path / SHARDS[1])
    sign(path)
    refused(path, message)


def test_a_class_too_many(path: Path) -> None:
    """All shards agree, and not with the configuration."""
    sign(path, lambda values: values["class_names"].append("fox"))
    refused(path, r"gaussians\.safetensors")
    sign(path, lambda values: values["files"].pop("gaussians.safetensors"))
    refused(path, "4 class")
