"""Facts of a run: what is compared before it goes on, and what the errors say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nfaug.io.errors import FileError
from nfaug.io.facts import Facts

WHAT = "runs/a holds a run"
CURE = "Use another --out"


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({"seed": 0}, {"seed": 1}, "seed was 0 and is 1"),
        ({"seed": 0}, {}, "seed was 0 and is None"),
        ({}, {"seed": 0}, "seed was None and is 0"),
        ({"size": [8, 8]}, {"size": (8, 9)}, "size was [8, 8] and is [8, 9]"),
        ({"lr": 0.1, "a": 1}, {"a": 2, "lr": 0.2}, "a was 1 and is 2"),
        ({"flow": {"width": 8}}, {"flow": {"width": 9}}, "flow was {'width': 8}"),
    ],
    ids=repr,
)
def test_facts_of_another_run(was: dict[str, Any], now: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="other images or settings") as error:
        Facts(now).check_same(Facts(was), WHAT, CURE)
    assert str(error.value).startswith(f"{WHAT} of other images or settings: {said}")
    assert str(error.value).endswith(f". {CURE}")
    assert Facts(now).sha256() != Facts(was).sha256()


def test_the_same_facts_in_another_order_and_on_disk(tmp_path: Path) -> None:
    one = Facts({"size": (8, 8), "lr": 0.1, "worst": math.nan})
    other = Facts({"worst": math.nan, "lr": 0.1, "size": [8, 8]})
    one.check_same(other, WHAT, CURE)
    assert one.sha256() == other.sha256()
    one.save(tmp_path / "facts.json")
    read = Facts.read(tmp_path / "facts.json")
    other.check_same(read, WHAT, CURE)
    assert read.sha256() == one.sha256()


def test_a_value_of_any_length_is_cut() -> None:
    with pytest.raises(ValueError, match="name was") as error:
        Facts({"name": "b" * 10**6}).check_same({"name": "a" * 10**6}, WHAT, CURE)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("found", [{}, {"format": 1}, {"format": "2"}, {"format": "x" * 10**6}])
def test_another_format(found: dict[str, Any]) -> None:
    with pytest.raises(FileError, match=r"another version of nfaug.* reads 2\. Use") as error:
        Facts(found).check_format(2, WHAT, CURE)
    assert len(str(error.value)) < 300
    Facts({"format": 2}).check_format(2, WHAT, CURE)
