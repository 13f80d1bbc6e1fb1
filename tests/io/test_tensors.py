"""Tensors that are mapped from a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from nfaug.io import tensors
from nfaug.io.errors import FileError
from nfaug.io.tensors import read_tensors, write_tensors


def test_tensors_outlive_their_file_and_do_not_write_to_it(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sha256 = write_tensors(file, {"x": torch.arange(6.0)})
    read = read_tensors(file, sha256)
    read["x"][0] = 7.0
    assert read_tensors(file, sha256)["x"].tolist() == [0, 1, 2, 3, 4, 5]
    write_tensors(tmp_path / "new", {"x": torch.zeros(6)})
    (tmp_path / "new").replace(file)  # as atomic writes do
    assert read["x"].tolist() == [7, 1, 2, 3, 4, 5]
    file.unlink()
    assert read["x"].tolist() == [7, 1, 2, 3, 4, 5]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted in /proc")
def test_tensors_take_no_memory_of_the_process(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    sha256 = write_tensors(file, {"x": torch.ones(2**26)})  # 256 MiB
    before = _own_memory()
    read = read_tensors(file, sha256)
    assert read["x"].sum() == 2**26
    assert _own_memory() - before < 2**26


def _own_memory() -> int:
    """Bytes of memory that this process shares with no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the kernel does not count it")


def test_a_file_that_is_replaced_between_its_hash_and_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.safetensors"
    sha256 = write_tensors(file, {"x": torch.zeros(2)})
    write_tensors(tmp_path / "new", {"x": torch.ones(2)})
    opener = tensors.safe_open

    def replaced(path: Path, **options: str) -> object:
        os.replace(tmp_path / "new", path)
        return opener(path, **options)

    monkeypatch.setattr(tensors, "safe_open", replaced)
    with pytest.raises(FileError, match="replaced while it was read"):
        read_tensors(file, sha256)
