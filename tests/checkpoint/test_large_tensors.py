"""Nothing is allocated for a tensor that a checkpoint only claims to have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tools.checkpoint import bounded, sign, with_header

from nfaug.checkpoint.checkpoint import load
from nfaug.checkpoint.manifest import CheckpointError


@pytest.mark.parametrize("size", [10**12, 2**62, 10**30])
def test_a_tensor_larger_than_any_memory(size: int, tiny_path: Path, tmp_path: Path) -> None:
    """Configuration and header agree on it."""
    path = tmp_path / "flow"
    shutil.copytree(tiny_path, path)
    header = {"x": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    (path / "model.safetensors").write_bytes(with_header(header, b""))
    sign(path, lambda values: values["flow"].update(width=[size, size]))
    with bounded("a large tensor"), pytest.raises(CheckpointError, match="safetensors"):
        load(path)
    sign(path, lambda values: values["flow"].update(width=[8, 8]))
    with bounded("a large tensor"), pytest.raises(CheckpointError, match="readable"):
        load(path)
