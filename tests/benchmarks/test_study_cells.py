"""The file of finished cells of the study, and the tables of earlier ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study_tools import CELL, ROW

from benchmarks.study import cells, gains, tables


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "results" / "study.csv"
    wanted = [replace(CELL, seed=seed) for seed in (1, 0, 1)]
    assert [cell.seed for cell in cells.pending(wanted, cells.read(file))] == [0, 1]
    cells.append(file, wanted[0], ROW)
    done = cells.read(file)
    assert done == {wanted[0]: {name: str(value) for name, value in ROW.items()}}
    assert cells.pending(wanted, done) == [wanted[1]]
    assert cells.pending([replace(CELL, seed=1, steps=5)], done), "another cell"


def test_a_row_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    file = tmp_path / "study.csv"
    other = replace(CELL, seed=1)
    row = ROW | {"right": gains.packed(torch.arange(100) % 3 > 0)}
    cells.append(file, CELL, row)
    once = file.read_text()
    cells.append(file, other, row)
    both = file.read_text()
    for left in range(len(once), len(both)):
        file.write_text(both[:left])
        assert list(cells.read(file)) == [CELL], "even if what is left looks complete"
        cells.append(file, other, row)
        assert file.read_text() == both
    file.write_text(both.replace(",0.0,", ","))
    with pytest.raises(ValueError, match="line 2"):
        cells.read(file)
    file.write_text(both.replace(",flow_sha", ""))
    with pytest.raises(ValueError, match="flow_sha"):
        cells.append(file, CELL, ROW)


def test_options_are_read_from_settings() -> None:
    assert cells.options(CELL) == {"p": "0.5", "alpha": "1", "mix": "axis"}
    assert cells.options(replace(CELL, settings="")) == {}


def test_settings_are_never_chosen_on_what_is_reported() -> None:
    every = {name: table.cells("x", 10) for name, table in tables.TABLES.items()}
    choosing = [name for name, table in tables.TABLES.items() if table.validation]
    chosen = [cell for name in choosing for cell in every.pop(name)]
    reporting = "both defaults flows long main other-noise"
    assert sorted(every) == reporting.split()
    reported = every["main"]
    assert {cell.split for each in every.values() for cell in each} == {"test"}
    assert {cell.split for cell in chosen} == {"validation"}
    assert not {cell.seed for cell in reported} & {cell.seed for cell in chosen}
    assert len({cell.steps for cell in reported}) == 1, "equal numbers of steps"
    assert len(set(reported)) == len(reported), "each cell looks at the test set once"
    other = {name for name, table in tables.TABLES.items() if table.needs_other}
    assert other == {"flows", "other-noise", "scales"}
