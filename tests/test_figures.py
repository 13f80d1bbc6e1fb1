"""The figures of the documentation are those of the rows in benchmarks/results."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
GAIN = re.compile(r"[+-]\d+(?:\.\d+)? ± \d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """scripts/figures.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("figures")


def test_the_pages_show_the_figures_of_their_rows(script: ModuleType) -> None:
    """`python scripts/figures.py` repairs a page that does not."""
    for path in script.PAGES:
        text = path.read_text(encoding="utf-8")
        assert script.written(text) == text, path


def shifted(gain: str) -> str:
    """A gain that is wrong by one point."""
    mean, _, half = gain.partition(" ± ")
    digits = len(mean.partition(".")[2])
    return f"{float(mean) + 1:+.{digits}f} ± {half}"


def test_every_gain_has_rows(script: ModuleType) -> None:
    """Each gain, changed by one point, is written back."""
    count = 0
    for path in script.PAGES:
        text = path.read_text(encoding="utf-8")
        for gain in GAIN.finditer(text):
            wrong = text[: gain.start()] + shifted(gain[0]) + text[gain.end() :]
            assert script.written(wrong) == text, f"{path}: {gain[0]}"
            count += 1
    assert count > 100


def test_figures_without_rows_are_errors(script: ModuleType) -> None:
    for text in (
        "A gain <!--speech-10: CutMix 9-->+1 ± 1",
        "<!--speech-10: CutMix 0.5-->+2 ± 2 starts a line, which Markdown takes for HTML",
    ):
        with pytest.raises(ValueError, match=r"CutMix"):
            script.written(text)
