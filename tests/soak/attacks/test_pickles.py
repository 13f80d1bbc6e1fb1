"""Hostile pickles run nothing and end in CheckpointError, soon and in little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from attack_tools import TESTS, attack

from nfaug.checkpoint.foreign import read_foreign

SCRIPT = str(Path(__file__).with_name("pickle_fuzz.py"))


def test_some_of_the_cases(tmp_path: Path) -> None:
    outcomes = attack(SCRIPT, tmp_path, range(0, 2000, 101))
    assert sum(outcomes.values()) == 20


@pytest.mark.soak
def test_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "checkpoint"))
    import pickle_fuzz

    outcomes = attack(SCRIPT, tmp_path, range(pickle_fuzz.COUNT))
    assert {outcome.partition(": ")[2].split()[0] for outcome in outcomes} == {
        *("converted", "read", "refused", "stopped")
    }
    # A dozen as `nfaug convert` reads them, in a new interpreter each.
    (tmp_path / "objects").mkdir()
    for number in range(5, pickle_fuzz.COUNT, 167):
        forked = pickle_fuzz.read(tmp_path, number).partition(": ")[2]
        path = pickle_fuzz.make(tmp_path, number)
        whole = pickle_fuzz.outcome_of(
            lambda path=path: read_foreign(path, seconds=pickle_fuzz.SECONDS)
        )
        assert whole == ("refused" if forked.startswith("stopped") else forked), number
