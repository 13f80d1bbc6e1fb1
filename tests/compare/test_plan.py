"""How many whole seeds fit, and which rows are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import TensorImages

from nfaug.compare import CompareConfig, compare
from nfaug.compare.classifier import Classifier
from nfaug.compare.plan import plan_of
from nfaug.compare.rows import PIXELS, Row, rows_of

NAMES = ["none", "randaugment", "mixup", "nfa", "nfa+randaugment"]
ROWS = rows_of(NAMES, [PIXELS])
FLOW = "my-flow"


def planned(minutes: float, rows: list[Row] = ROWS, **changes: Any) -> Any:
    """Rows that take half a minute each, on one process, after a first seed of three minutes."""
    settings: dict[str, Any] = {"spent": 180, "most": 10, "processes": 1} | changes
    return plan_of(dict.fromkeys(rows, 30.0), minutes=minutes, **settings)


def test_whole_seeds_of_all_rows() -> None:
    """A seed takes 2.5 minutes."""
    plan = planned(13.1)
    assert (plan.seeds, plan.left_out, plan.needed) == (5, [], 0)
    assert planned(8.1).seeds == 3
    assert planned(1000).seeds == 10
    assert planned(1000, most=2).seeds == 2


def test_several_processes_wait_for_the_last_job() -> None:
    """The rows of a flow are one job of a minute, beside three of half a minute.

    On two processes a seed ends after 90 seconds, two after 150, three after 240.
    """
    for minutes, seeds in ((5.6, 3), (6.9, 3), (7.1, 4)):
        plan = planned(minutes, processes=2, most=4)
        assert (plan.seeds, plan.left_out) == (seeds, [])
    assert planned(5.4, processes=2).left_out
    with pytest.raises(TimeoutError):
        planned(3.1, processes=2)
    assert planned(3, processes=2, most=1).seeds == 1, "what is computed is shown"
    assert planned(2, most=1).seeds == 1


def test_the_first_row_stays() -> None:
    """The others gain over it."""
    for names, minutes in ((["randaugment", "mixup"], 4.0), (["randaugment", "nfa"], 5.0)):
        rows = rows_of(names, [PIXELS])
        plan = planned(minutes, [*rows, Row(PIXELS, "randaugment")], spent=160)
        assert plan.rows[0] == rows[0].name
        assert plan.left_out


def test_rows_are_left_out_in_a_stated_order() -> None:
    """Three seeds of all rows need eight minutes, of four 7, of three 6, of two 5."""
    known = [row.name for row in ROWS]
    for minutes, left_out in (
        (7.2, [known[4]]),
        (6.2, [known[2], known[4]]),
        (5.2, [known[1], known[2], known[4]]),
    ):
        plan = planned(minutes)
        assert plan.left_out == left_out
        assert plan.seeds == 3
        assert plan.needed == 9
        assert planned(plan.needed).left_out == []


def test_frozen_rows_and_other_flows_stay() -> None:
    rows = rows_of(["frozen", *NAMES], [PIXELS, FLOW])
    rows.insert(1, Row(frozen="small"))
    plan = planned(8.1, rows)
    assert {"frozen", "frozen-small", "none", f"nfa:{FLOW}"} <= {*plan.rows}
    assert plan.left_out == ["randaugment", "mixup", *(row.name for row in rows[-2:])]


def test_too_little_time_for_three_seeds() -> None:
    with pytest.raises(TimeoutError, match=r"--minutes 9.* --minutes 6"):
        planned(4)


def test_a_slow_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes ended with four seeds of a row, and one or two of the others: no advice."""
    now = [0.0]
    trained: list[int] = []
    train = Classifier.train

    def slow(self: Classifier, *args: Any, **options: Any) -> None:
        trained.append(self.seed)
        now[0] += 50
        train(self, *args, **options)

    monkeypatch.setattr("nfaug.compare.run.check_time", lambda *_: None)  # it trains for 3 steps
    monkeypatch.setattr(Classifier, "train", slow)
    for module in ("run", "work"):
        monkeypatch.setattr(f"nfaug.compare.{module}.monotonic", lambda: now[0])
    labels = torch.arange(96) % 2
    noise = torch.randint(256, (96, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = TensorImages(noise.byte(), labels, ("a", "b"))
    config = CompareConfig(per_class=4, steps=2, variants=2, minutes=10, device="cpu")
    found = compare(data, config=config, out=tmp_path / "ten", progress=False)
    assert found.left_out == [ROWS[2], ROWS[4]]
    assert found.seeds == [0, 1, 2]
    # Rows that are left out have a cell of the first seed, and every other one has three.
    assert sorted(trained) == [0] * 5 + [1] * 3 + [2] * 3
    assert now[0] <= 600
    assert "--minutes 13" in found.text()
    assert not found.advice().startswith("No advice")

    trained.clear()
    now[0] = 0.0
    short = CompareConfig(per_class=4, steps=2, variants=2, minutes=3, device="cpu")
    with pytest.raises(TimeoutError, match="--minutes 13"):
        compare(data, config=short, out=tmp_path / "three", progress=False)
    assert trained == [0] * 5
    found = compare(data, config=config, out=tmp_path / "three", progress=False)
    assert found.seeds == [0, 1, 2], "the first seed counts with what it took"
    assert trained.count(0) == 5, "the same command goes on, and trains nothing twice"


def test_minutes_stay_those_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(96) % 2
    noise = torch.randint(256, (96, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = TensorImages(noise.byte(), labels, ("a", "b"))
    config = CompareConfig(per_class=4, steps=2, variants=2, rows="none,nfa", seeds=3, device="cpu")
    train = Classifier.train

    def interrupted(self: Classifier, *args: Any, **options: Any) -> None:
        if self.seed == 2:
            raise KeyboardInterrupt
        train(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(data, config=config, out=tmp_path / "out", progress=False)
    longer = CompareConfig(**(vars(config) | {"minutes": 20.0}))
    with pytest.raises(ValueError, match="of 10 minutes"):
        compare(data, config=longer, out=tmp_path / "out", progress=False)
    assert compare(data, config=config, out=tmp_path / "out", progress=False).seeds == [0, 1, 2]
