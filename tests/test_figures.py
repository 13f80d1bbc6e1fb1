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


def test_figures_without_rows_are_errors(script: ModuleType) -> None:
    for text in (
        "A gain <!--speech-10: CutMix 9-->+1 ± 1",
        "<!--speech-10: CutMix 0.5-->+2 ± 2 starts a line, which Markdown takes for HTML",
    ):
        with pytest.raises(ValueError, match=r"CutMix"):
            script.written(text)


def test_the_picture_of_gains_shows_its_rows(gains_picture: ModuleType) -> None:
    """`python scripts/gains_picture.py` repairs a picture that does not."""
    lines = gains_picture.lines()
    assert gains_picture.drawn_gains(gains_picture.PICTURE) == gains_picture.gains_of(lines)
    drawn = [gain for line in lines for gain in line.gains if gain is not None]
    assert any(gain.mean > gain.half for gain in drawn)
    assert any(abs(gain.mean) < gain.half for gain in drawn), "nothing helps in some rows"


def test_the_readme_counts_the_experiments_of_the_picture(gains_picture: ModuleType) -> None:
    lines = gains_picture.lines()

    def gained(classifier: str) -> str:
        gains = [line.gains[0] for line in lines if classifier in line.title]
        return f"{sum(gain.mean > gain.half for gain in gains)} of {len(gains)}"

    lost = sum(line.gains[0].mean < -line.gains[0].half for line in lines)
    words = " ".join((gains_picture.figures.ROOT / "README.md").read_text().split())
    assert f"NFA gains clearly in {gained('')}; in most others" in words
    assert (
        f"NFA gains clearly in {gained('')} experiments: {gained('scratch')} from scratch," in words
    )
    assert f" {gained('frozen')} with frozen features, and {gained('fine-tuned')} with" in words
    assert f"It loses clearly in {lost}." in words


def test_a_picture_of_other_rows_is_seen(
    gains_picture: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "gains.png"
    gains_picture.draw(gains_picture.lines()[:1], picture)
    monkeypatch.setattr(gains_picture, "PICTURE", picture)
    assert gains_picture.main(["--check"]) == 1


def test_the_picture_finds_new_rows_of_the_ladder(
    gains_picture: ModuleType, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuned rows stand below the frozen ones as soon as three seeds of them are known."""
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "README.md").write_text("10 labels a class, a network.\n")
    lines = ["augmentation,seed,accuracy,seconds,strength,right"]
    for seed in range(3):
        lines.append(f"none,{seed},50.0,1.0,,AAAA////")  # 24 of 48 images are right
        lines.append(f"nfa:builtin:pixels,{seed},66.6667,1.0,,AAD/////")  # 32 of them
    file = tmp_path / "ladder" / "letters.csv"
    file.write_text("\n".join(lines[:-1]) + "\n")
    monkeypatch.setattr(gains_picture, "LADDER", file.parent)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    script._csv.cache_clear()
    script.gain.cache_clear()
    assert gains_picture.ladder_lines() == []
    file.write_text("\n".join(lines) + "\n")
    (line,) = gains_picture.ladder_lines()
    script._csv.cache_clear()
    script.gain.cache_clear()
    assert line.kind == "Handwritten letters"
    assert line.title == "10 per class, fine-tuned, 96 px"
    gain, *others = line.gains
    assert gain.mean == pytest.approx(100 * 8 / 48)
    assert others == [None, None]
