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
def scripts() -> Iterator[None]:
    """The folder of scripts on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield


@pytest.fixture(scope="module")
def script(scripts: None) -> ModuleType:
    """scripts/figures.py."""
    return importlib.import_module("figures")


@pytest.fixture(scope="module")
def gains_picture(scripts: None) -> ModuleType:
    """scripts/gains_picture.py."""
    return importlib.import_module("gains_picture")


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


def test_the_picture_of_gains_shows_its_rows(gains_picture: ModuleType) -> None:
    """`python scripts/gains_picture.py` repairs a picture that does not."""
    lines = gains_picture.lines()
    assert gains_picture.drawn_gains(gains_picture.PICTURE) == gains_picture.gains_of(lines)
    drawn = [gain for line in lines for gain in line.gains if gain is not None]
    assert any(gain.mean > gain.half for gain in drawn)
    assert any(abs(gain.mean) < gain.half for gain in drawn), "nothing helps in some rows"
