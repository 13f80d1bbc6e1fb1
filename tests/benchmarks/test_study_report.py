"""The tables and the picture of the study, also the committed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from study_tools import CELL, ROW

from benchmarks.study import cells, classifiers, data, gains, pictures, report
from benchmarks.study.__main__ import RESULTS
from benchmarks.study.run import run_cell


def test_nfa_is_compared_with_the_simpler_arms(tmp_path: Path) -> None:
    rows = {}
    for arm, flow, values in (
        ("none", "-", (80, 82, 81)), ("mixup", "-", (80, 84, 82)), ("noise", "l", (81, 83, 82)),
        ("noise", "u", (90, 90, 90)), ("nfa", "l", (82, 84, 83)),
    ):  # fmt: skip
        for seed, value in enumerate(values):
            cell = replace(
                CELL, arm=arm, flow=flow, seed=seed, settings="" if arm == "none" else "p=1"
            )
            rows[cell] = {**{k: str(v) for k, v in ROW.items()}, "accuracy": str(value)}
    text = report.write_report(rows, tmp_path / "study.md", tmp_path / "study.png")
    assert "| none | the labelled images alone | NFA | **+1.0 ± 0.0** | +1.0 ± 2.5 |" in text
    for seed, value in enumerate((83, 83, 83)):  # noise with other settings, and better
        better = replace(
            CELL, arm="noise", flow="l", base="none", seed=seed, settings="p=0.5 scale=9"
        )
        rows[better] = {**ROW, "accuracy": str(value)}
    text = report.write_report(rows, tmp_path / "study.md", tmp_path / "study.png")
    assert "| none | the labelled images alone | NFA | +0.0 ± 2.5 | +1.0 ± 2.5 |" in text


def test_rivals_are_compared_with_geometry_alone_and_with_no_flow(tmp_path: Path) -> None:
    bare = replace(CELL, data="tiny", arm="none", flow="-", settings="", base="flip+crop:4")
    accuracies = {
        bare: (80, 81),
        replace(bare, base="flip+crop:4+cutmix:1"): (82, 84),
        replace(bare, base="flip+crop:4+cutmix:1", arm="nfa", flow="p"): (83, 84),
        replace(bare, base="flip+crop:4+cutmix:1", arm="nfa", flow="b"): (86, 88),
        replace(bare, base="flip+crop:4+cutmix:1", arm="nfa", flow="o"): (83, 84),
        replace(bare, base="flip+crop:4", arm="nfa", flow="o"): (81, 82),
    }
    rows = {
        replace(cell, seed=seed): ROW | {"accuracy": str(value)}
        for cell, values in accuracies.items()
        for seed, value in enumerate(values)
    }
    found = gains.groups(rows)
    assert gains.gain_over_geometry(found, bare) is None
    text = report.write_report(rows, tmp_path / "r.md", tmp_path / "r.png")
    line = next(line for line in text.splitlines() if line.count("|") > 9 and "bundled" in line)
    assert [part.strip(" *").split(" ")[0] for part in line.split("|")[7:9]] == ["+4.0", "+6.5"]
    assert "| CutMix | +2.5 ± 6.4 | +0.5 ± 6.4 | +4.0 ± 0.0 |" in text, "and what NFA adds"
    assert "| NFA, flow of other images | +1.0 ± 0.0 |  |  |" in text
    assert "| less NFA without a flow |" in text
    assert "| - | - | +3.5 ± 6.4 |" in text
    assert "| less flip+crop:4+cutmix:1 |" in text
    assert "| NFA | flip+crop:4 | images of other classes | -1.5 ± 6.4 |" in text
    assert "| less the same arm on geometry alone |" in text
    assert text.splitlines()[-1] == (
        "| flip+crop:4+cutmix:1 | NFA | images of other classes | +2.0 ± 0.0 |"
    )
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_a_data_set_with_few_rivals_has_no_panel() -> None:
    bases = [f"flip+crop:4{rest}" for rest in ("", "+mixup:1", "+cutmix:1", "+isda:1")]
    full = [replace(CELL, data="full", arm="nfa", flow="p", base=base) for base in bases]
    half = [replace(key, data="half") for key in full[:2]]
    few = [replace(full[0], data="few", flow=flow) for flow in ("p", "b")]  # one row, two marks
    assert pictures.panels([*full, *half, *few]) == ["full", "half"]
    assert pictures.panels(few) == ["few"]
    assert pictures.panels([]) == []


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


@pytest.mark.parametrize("name", ["study", "candidates", "rivals"])
def test_the_committed_report_is_that_of_the_committed_cells(name: str, tmp_path: Path) -> None:
    rows = cells.read(RESULTS / f"{name}.csv")
    text = report.write_report(rows, tmp_path / f"{name}.md", tmp_path / f"{name}.png")
    assert text == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_one_table_of_each_data_set_is_drawn(tmp_path: Path) -> None:
    bare = replace(CELL, arm="none", flow="-", settings="", base="flip+crop")
    other = replace(bare, base="flip+crop:3", network="small-cnn:0.2:0.0005:64")
    keys = [bare, *(replace(other, base=f"flip+crop:3{more}") for more in ("", "+mixup:1"))]
    rows = {replace(key, seed=seed): ROW for key in keys for seed in (0, 1)}
    text = report.write_report(rows, tmp_path / "r.md", tmp_path / "r.png")
    assert text.count("## tiny") == 2, "two protocols"
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
