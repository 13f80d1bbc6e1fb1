"""The tables of the documentation are those of the rows in lab/results."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nfaug.compare import CompareConfig, Comparison, Images
from nfaug.compare.cells import Cells
from nfaug.compare.figures import Gain
from nfaug.compare.images import Part

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """The folder of the laboratory on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "lab"))
        yield


@pytest.fixture(scope="module")
def tables(lab: None) -> ModuleType:
    """lab/tables.py."""
    return importlib.import_module("tables")


def test_the_pages_show_the_figures_of_their_rows(tables: ModuleType) -> None:
    """`python lab/tables.py` repairs a page that does not."""
    count = 0
    for path in tables.PAGES:
        text = path.read_text(encoding="utf-8")
        assert tables.written(text) == text, path
        count += len(tables.TABLE.findall(text))
    assert count > 10


def test_every_table_is_shown(tables: ModuleType) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in tables.PAGES)
    assert {name for _, name, _ in tables.TABLE.findall(pages)} == set(tables.templates())


def test_the_numbers_of_the_first_page(tables: ModuleType) -> None:
    signs = "final/signs-scratch"
    counts = {}
    for row in ("NFA in pixels", "RandAugment"):
        counts[row] = tables.intervals("final/*-scratch", row)
    tuned = tables.intervals("final/*-finetuned", "NFA in pixels")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in (
        "gained accuracy on {above} of 7 datasets and lost on none".format(
            **counts["NFA in pixels"]
        ),
        f"on hand signs {tables.gain(signs, 'RandAugment')} points",
        f"nfaug {tables.gain(signs, 'NFA in pixels')}.",
        f"nfaug gained on none and lost on {tuned['below']}.",
    ):
        assert words in text, words
    assert counts["RandAugment"] == counts["NFA in pixels"], "So did RandAugment"
    assert counts["NFA in pixels"]["below"] == tuned["above"] == 0
    for network in ("scratch", "finetuned"):
        assert len(tables.files_of(f"final/*-{network}")) == 7


def test_the_page_has_the_advice_of_the_demo(tables: ModuleType, tmp_path: Path) -> None:
    names = {line["augmentation"] for line in tables.lines_of("compare/demo")}
    cells = {name: tables.cells_of("compare/demo", name) for name in names}
    count = len(cells["none"][0].right)
    kept = Cells(tmp_path, {}, count)
    kept.update({(name, seed): cell for name in names for seed, cell in cells[name].items()})
    config = CompareConfig(
        methods="none,randaugment,nfa",
        per_class=10,
        augment="flip,crop",
        steps=400,
        seeds=5,
        device="cpu",
    )
    none = torch.zeros((count, 3, 32, 32), dtype=torch.uint8)
    part = Part(none, torch.arange(count) % 10, torch.empty(0))
    images = Images([str(label) for label in range(10)], part, part, [""] * count, [])
    advice = Comparison(config, images, kept).advice()
    page = (ROOT / "docs" / "tutorials" / "does-it-help.md").read_text(encoding="utf-8")
    assert f'"{advice}"' in " ".join(page.split())


def test_another_figure_is_written_back(tables: ModuleType) -> None:
    text = "<!-- table: defaults-scratch -->\n\n| a |\n|---|\n| +9.9 ± 0.1 |\n\nBelow.\n"
    written = tables.written(text)
    assert "9.9 ± 0.1" not in written
    assert "| blood cells |" in written
    assert written.endswith("|\n\nBelow.\n")


def test_the_significant_gains_of_a_table(tables: ModuleType) -> None:
    """Holm: of p = 0.010, 0.013, 0.03 and 0.9, the first two are below 0.05 / 4 and 0.05 / 3."""
    gains = []
    for p in (0.03, 0.010, 0.9, 0.013):
        gain = Gain(0.0, 1.0, 0.5, 8)
        gains.append(gain._replace(mean=gain.half_at(p / 2)))
        assert tables.p_value(gains[-1]) == pytest.approx(p, rel=1e-6)
    assert tables.significant(gains) == [False, True, False, True]
    assert tables.p_value(Gain(0.0, 1.0, 0.0, 8)) == 1.0
    assert tables.p_value(Gain(-1e9, 1.0, 1.0, 8)) < 1e-10
    assert tables.p_value(Gain(5.0, math.inf, 1.0, 2)) == 1.0, "two seeds say nothing"


def test_intervals_are_counted_over_files(tables: ModuleType) -> None:
    """A row's name may have an equals sign, which is no condition on a column."""
    for row in ("NFA in pixels at p = 0.25", "CutMix"):
        gains = [tables.gain(f"defaults/{name}-scratch", row) for name in ("cells", "clothes")]
        above = sum(gain.mean > gain.half for gain in gains)
        below = sum(gain.mean < -gain.half for gain in gains)
        assert tables.intervals("defaults/c[el]*-scratch", row) == {"above": above, "below": below}
    assert above + below > 0
    assert tables.filled("{defaults/*-finetuned: MixUp, above}") == "5"


def test_a_row_that_is_not_there(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no nothing\.csv"):
        tables.filled("| {nothing: rows} |")
    with pytest.raises(ValueError, match="NFA in color has 0 lines"):
        tables.filled("| {defaults/cells-scratch: NFA in color} |")


def test_the_picture_of_gains_shows_its_rows(tables: ModuleType) -> None:
    """`python lab/gains.py` repairs a picture that does not."""
    gains = importlib.import_module("gains")
    lines = gains.lines()
    assert gains.drawn(gains.PICTURE) == gains.text_of(lines)
    assert len(lines) == 18
