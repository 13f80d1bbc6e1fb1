"""The study in seconds: one small grid of cells and its report, and the committed report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.study import cells, classifiers, data, report
from benchmarks.study.__main__ import RESULTS
from benchmarks.study.cells import Cell
from benchmarks.study.run import run_cell

CELL = Cell("tiny", "nfa", "l", "none", 6, 0, "test", 4, "p=0.5 alpha=1 mix=axis")


def test_a_cell_and_its_report(
    source: data.DataSet, small_flows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "WIDTHS", (4, 4, 4))
    rows = {}
    for arm, flow, base, seed in [
        (arm, flow, base, seed)
        for arm, flow in (("none", "-"), ("nfa", "l"))
        for base in ("none", "flip+crop")
        for seed in (0, 1)
    ]:
        settings = CELL.settings if arm == "nfa" else ""
        cell = replace(
            CELL, arm=arm, flow=flow, base=base, seed=seed, split="validation", settings=settings
        )
        result = run_cell(cell, source, tmp_path)
        assert set(result) == set(cells.RESULTS)
        assert 0 <= float(result["accuracy"]) <= 100
        rows[replace(cell, split="test")] = {name: str(value) for name, value in result.items()}
    text = report.write_report(rows, tmp_path / "study.md", tmp_path / "study.png")
    assert (tmp_path / "study.md").read_text() == text
    assert text.count("| NFA | the labelled images alone | p=0.5 alpha=1 mix=axis | 2 |") == 2
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
    assert text.count("| the labelled images alone | NFA | - | - |") == 2, "no simpler arm is there"


def test_the_committed_report_is_that_of_the_committed_cells(tmp_path: Path) -> None:
    rows = cells.read(RESULTS / "study.csv")
    text = report.write_report(rows, tmp_path / "study.md", tmp_path / "study.png")
    assert text == (RESULTS / "study.md").read_text(encoding="utf-8")
