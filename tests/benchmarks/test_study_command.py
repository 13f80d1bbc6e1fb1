"""The command line of the study."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_tools import ROW

from benchmarks.study import __main__ as command
from benchmarks.study import cells
from benchmarks.study.cells import Cell
from benchmarks.study.tables import TABLES


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("--table main", "--work"),
        ("--table what --work w", "'what'"),
        ("--jobs 0 --work w", "got 0"),
        ("--seeds some --work w", "got some"),
        ("--name cifar10 --work w", "--data"),
        ("--network vgg --work w", "'vgg'"),
        ("--table headline --work w", "small-swin"),
        ("--flow f --work w", "photographs"),
        ("--table flows --work w", "--other"),
        ("--print --csv nowhere.csv", "nowhere.csv"),
    ],
)
def test_wrong_options_are_refused(
    words: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.parse(words.split())
    assert wrong in capsys.readouterr().err.splitlines()[-1]


def test_options_go_into_the_data_set() -> None:
    words = "--name cifar10 --data a --test-data b --other c --validation 40 --work w"
    found = command.data_set(command.parse(words.split()))
    assert (found.path, found.test_path, found.other, found.validation) == ("a", "b", "c", 40)
    new = command.data_set(command.parse(f"{words} --name mine --image-size 32".split()))
    assert (new.name, new.image_size) == ("mine", 32)


def test_commands_of_the_documentation_are_valid() -> None:
    root = command.RESULTS.parents[1]
    texts = [root / "benchmarks" / "README.md", root / "docs" / "when-it-helps.md"]
    found = [
        words
        for text in texts
        for words in re.findall(r"`python\s+-m\s+benchmarks\.study\s+([^`]+)`", text.read_text())
    ]
    assert len(found) >= 10
    for words in found:
        complete = words if "--work" in words else f"{words} --work w"
        assert command.parse(shlex.split(complete)).table
    for table in [*TABLES, *command.BY_TUNING]:
        assert any(table in words.split() for words in found), f"no command runs {table}"


def test_a_picture_lies_beside_the_rows_of_another_csv() -> None:
    own = command.parse(["--work", "w"])
    assert (own.csv.name, own.plot.name, own.plot.parent.name) == ("study.csv", "study.png", "docs")
    assert command.parse(["--work", "w", "--csv", "a/b.csv"]).plot == Path("a/b.png")


@pytest.mark.parametrize("table", list(TABLES))
def test_tables_of_one_round(table: str) -> None:
    args = command.parse(["--table", table, "--work", "w", "--other", "o", "--seeds", "2"])
    assert command.wanted(table, "fashion-mnist", args)


def test_tables_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every table of choices and of reports, with accuracies that are made up."""
    ran: list[list[Cell]] = []

    def run(wanted: list[Cell], data: Any, *, csv: Path, **_: Any) -> None:
        ran.append(wanted)
        for cell in wanted:
            accuracy = 50 + len(cell.base + cell.settings) % 7
            cells.append(csv, cell, ROW | {"accuracy": f"{accuracy}"})

    def study(words: str) -> None:
        shown = ["study", *words.split(), "--name", "cifar10", "--data", "a", "--other", "o"]
        shown += ["--seeds", "1", "--work", str(tmp_path), "--csv", str(tmp_path / "r.csv")]
        monkeypatch.setattr("sys.argv", shown)
        command.main()

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(SystemExit, match="network"):
        study("--table tuning")
    assert not ran
    small = set(command.BY_TUNING) - {"photographs", "headline", "headline-tuning"}
    study("--table network tuning stacked-tuning label-tuning longer rivals labels")
    assert len(ran) == len(small) + 1, "the network has two rounds"
    study("--table network headline-tuning headline --network small-swin")
    assert len(ran) == len(small) + 1 + 5, "two rounds, two rounds and one"
    study("--table network tuning rivals")
    assert len(ran) == len(small) + 6, "nothing is left to do"
    assert {cell.split for each in ran for cell in each} == {"tuning", "test"}
    assert capsys.readouterr().out.endswith((tmp_path / "r.md").read_text() + "\n")
    assert (tmp_path / "r.png").exists()
    for seed, cell in enumerate(
        each for each in cells.read(tmp_path / "r.csv") if each.flow == "b"
    ):
        if seed < 2:
            cells.append(
                tmp_path / "r.csv", replace(cell, seed=seed), ROW | {"flow_sha": f"{seed}a"}
            )
    with pytest.raises(SystemExit, match="0a, 1a"):
        study("--table network")
