"""Damaged checkpoints are loaded as they are and can be used, or end in CheckpointError."""

from __future__ import annotations

import shutil
from pathlib import Path

import checkpoint_fuzz
import pytest
from attack_tools import attack
from checkpoint_fuzz import COUNT, KINDS, make, read_damaged
from checkpoint_tools import bounded, sign, with_header

from nfaug.checkpoint.checkpoint import CheckpointError, load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intact checkpoints, which no case changes."""
    folder = tmp_path_factory.mktemp("fuzz")
    make(folder)
    return folder


def test_some_of_the_cases(made: Path) -> None:
    step = 37  # 136 cases, and so of every kind
    assert len({number % len(KINDS) for number in range(0, COUNT, step)}) == len(KINDS)
    for number in range(0, COUNT, step):
        with bounded(f"case {number}"):
            assert "length" not in read_damaged(made, number), number


@pytest.mark.parametrize("size", [10**12, 2**62, 10**30])
def test_nothing_is_allocated_for_what_is_not_there(size: int, made: Path) -> None:
    """Configuration and header agree on a tensor larger than any memory."""
    good = made / "one"
    shutil.copytree(good, made / f"of {size}")
    path = made / f"of {size}"
    header = {"x": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    (path / "model.safetensors").write_bytes(with_header(header, b""))
    sign(path, lambda values: values["flow"].update(width=[size, size]))
    with bounded("a large tensor"), pytest.raises(CheckpointError, match="safetensors"):
        load(path)
    sign(path, lambda values: values["flow"].update(width=[16, 16]))
    with bounded("a large tensor"), pytest.raises(CheckpointError, match="readable"):
        load(path)


@pytest.mark.soak
def test_every_case(tmp_path: Path) -> None:
    outcomes = attack(checkpoint_fuzz.__file__, tmp_path, range(COUNT))
    assert {outcome.partition(": ")[2] for outcome in outcomes} == {
        *("used", "used without NFAugment", "refused")
    }
