"""Hostile folders and files are opened, or end in a documented error."""

from __future__ import annotations

from pathlib import Path

import pytest
from attack_tools import attack
from checkpoint_tools import bounded

from benchmarks import hostile_data
from benchmarks.hostile_data import COUNT, KINDS, case, prepare


def test_some_of_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "", prepend=":")  # restored after `prepare` has changed it
    prepare(tmp_path)
    for number, kind in enumerate(KINDS):
        with bounded(kind.__name__):
            assert "memory" not in case(tmp_path, number)


@pytest.mark.soak
def test_every_case(tmp_path: Path) -> None:
    outcomes = attack(hostile_data.__file__, tmp_path, range(COUNT))
    assert {outcome.partition(": ")[2] for outcome in outcomes} == {
        *("read", "read in part", "refused")
    }
