"""The advice of a comparison: what it says of known gains, and how often it is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nfaug.compare import CompareConfig, Comparison
from nfaug.compare.cells import Cells
from nfaug.compare.report.advice import finding_of, limited_by_images, seeds_needed
from nfaug.compare.report.figures import Cell, Gain, is_clear, level_of_look, student
from nfaug.compare.rows import PIXELS, Row

NONE, NFA, RAND = Row(), Row(PIXELS), Row("", "randaugment")
FROZEN = Row(frozen=True)
SETTINGS = CompareConfig(rows="none,randaugment,nfa,nfa+randaugment")


def cells_of(folder: Path, accuracies: dict[Row, list[float]], images: int = 400) -> Cells:
    """Cells whose classifiers are right on the first images."""
    cells = Cells(folder, {"steps": 3}, images)
    for row, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            cells[row.name, seed] = Cell(np.arange(images) < accuracy * images / 100, 1.0)
    return cells


def compared(folder: Path, found: dict[Row, list[float]], images: int = 400) -> Comparison:
    return Comparison(SETTINGS, cells_of(folder, found, images))


def test_the_simplest_of_the_best(tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0, 50.5, 50.0], NFA: [60.0, 61.0, 60.6, 60.1]}
    found[Row(PIXELS, "randaugment")] = [60.2, 61.1, 60.4, 60.3]
    found[RAND] = [55.0, 56.0, 55.5, 55.1]
    comparison = compared(tmp_path, found)
    assert comparison.best() == NFA
    advice = comparison.advice()
    assert advice.startswith("Use NFA in pixels: +10")
    assert "against RandAugment" in advice
    assert "3" in advice.partition("largest")[2]  # it is the largest gain of three
    assert comparison.rows == SETTINGS.table()  # in the order of cost, not of gain


def test_what_limits_a_gain_is_named(tmp_path: Path) -> None:
    flat = {NONE: [50.0] * 4, RAND: [50.0] * 4}
    seeds = compared(tmp_path / "seeds", flat | {NFA: [53.0, 50.0, 52.0, 49.0]}, 20000)
    assert "number of seeds" in seeds.advice()
    images = compared(tmp_path / "images", flat | {NFA: [52.5, 52.5, 52.0, 52.5]}, 200)
    assert "--test-data" in images.advice()
    for comparison in (seeds, images):
        assert comparison.best() is None
    lost = compared(tmp_path / "lost", flat | {NFA: [40.0, 41.0, 42.0, 40.0]})
    assert lost.best() is None
    assert "keep" in lost.advice()


def test_no_effect_is_an_answer(tmp_path: Path) -> None:
    """+0.0 ± 0.9 was followed by a call for 190 times as many images."""
    found = {NONE: [90.0, 90.1, 90.0, 90.1], NFA: [90.1, 90.0, 90.1, 90.0]}
    found[RAND] = [90.0, 90.0, 90.1, 90.1]
    advice = compared(tmp_path, found, 20000).advice()
    assert "point" in advice
    assert "--test-data" not in advice


@pytest.mark.parametrize("count", [1, 2])
def test_two_seeds_have_no_interval(count: int, tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0][:count], NFA: [80.0, 81.0][:count], RAND: [51.0, 51.0][:count]}
    comparison = compared(tmp_path, found)
    table, _, _ = comparison.text().partition("\n- ")
    assert "±" not in table
    assert "nothing about chance" in comparison.advice()
    assert comparison.best() is None


def test_rows_without_a_common_seed(tmp_path: Path) -> None:
    """Several processes were interrupted: the second seed of a row was ready before its first."""
    cells = cells_of(tmp_path, {NONE: [50.0]})
    cells[NFA.name, 1] = Cell(np.ones(400, bool), 1.0)
    comparison = Comparison(SETTINGS, cells)
    assert str(comparison.gain(NFA)) == ""
    assert "nothing about chance" in comparison.advice()
    assert "| NFA in pixels | 100.0 |  |" in comparison.text()
    assert comparison.plot()


def test_frozen_features_are_kept_unless_training_is_better(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    settings = CompareConfig(network="resnet18", weights=str(weights))
    rows = settings.table()
    assert rows[0] == FROZEN
    flat = {row: [60.0, 61.0, 60.0, 60.5] for row in rows}
    kept = Comparison(settings, cells_of(tmp_path / "kept", flat))
    assert kept.best() is None
    assert "logistic regression" in kept.advice()
    better = flat | {NONE: [75.0, 76.0, 75.0, 75.5], NFA: [82.0, 83.0, 82.0, 82.5]}
    tuned = Comparison(settings, cells_of(tmp_path / "tuned", better))
    assert tuned.best() == NFA
    assert "against fine-tuned" in tuned.advice()
    assert "frozen features" in tuned.text()


def test_rows_without_time_are_named(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {NONE: [50.0] * 3, NFA: [51.0] * 3})
    assert comparison.left_out == [RAND, Row(PIXELS, "randaugment")]
    assert "Left out" in comparison.text()


def test_a_row_of_two_seeds_that_is_ahead_is_named(tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0, 52.0], NFA: [50.0, 51.5, 52.0], RAND: [60.0, 61.0]}
    assert "RandAugment is +10.0" in compared(tmp_path / "ahead", found).advice()
    found[RAND] = [40.0, 41.0]
    assert "RandAugment is" not in compared(tmp_path / "behind", found).advice()


def test_images_that_nothing_gets_right_are_named(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, {NONE: [90.0] * 3, NFA: [95.0] * 3}, 20)
    names = [f"{number}.png" for number in range(20)]
    notes = Comparison(SETTINGS, cells, names=names).notes()
    doubted = next(note for note in notes if "labels" in note and "wrong" in note)
    assert "19.png" in doubted
    assert "18.png" not in doubted


def test_all_labels_have_no_variation_of_images(tmp_path: Path) -> None:
    assert any("same labelled images" in note for note in compared(tmp_path, {NONE: [1]}).notes())
    few = Comparison(CompareConfig(per_class=3), Cells(tmp_path, {"steps": 3}, 400))
    assert not any("same labelled images" in note for note in few.notes())


def test_a_look_has_half_the_level_of_the_last(tmp_path: Path) -> None:
    assert sum(level_of_look(look) for look in range(1, 50)) == pytest.approx(0.05)
    gain = Gain(3.0, 1.0, 0.3, 20)
    assert is_clear(gain, 1, 1)
    assert not is_clear(gain, 5, 3)
    cells = cells_of(tmp_path, {NONE: [50.0]})
    assert [cells.look(), cells.look()] == [1, 1]  # nothing new was seen
    cells.add("none", 1, np.ones(400, bool), 1.0)
    assert cells.look() == 2


def test_the_seeds_that_are_asked_for_are_enough() -> None:
    for gain in (Gain(2.0, 1.0, 0.2, 5), Gain(1.0, 0.9, 0.1, 10)):
        count = seeds_needed(gain, 5, 1)
        error = gain.seed_error * (gain.number / count) ** 0.5
        assert not limited_by_images(gain)
        assert is_clear(gain._replace(seed_error=error, number=count), 5, 2)


def simulated(gain: float, random: np.random.Generator) -> dict[Row, dict[int, Cell]]:
    """Forty seeds of three rows on 500 images, the second of which gains some points."""
    luck = random.standard_normal((3, 40, 1)) * 0.02
    # Each image is right with a probability of its own, about 60% on average.
    ease = np.clip(0.6 + 0.2 * random.standard_normal(500), 0, 1)
    quality = np.array([0, gain / 100, 0])[:, None, None]
    right = random.random((3, 40, 500)) < ease + luck + quality
    rows = (NONE, NFA, RAND)
    return {row: {s: Cell(right[n, s], 1.0) for s in range(40)} for n, row in enumerate(rows)}


def followed(cells: dict[Row, dict[int, Cell]]) -> Row:
    """The row that is advised in the end to a user who adds the seeds that the advice asks for."""
    seeds = 5
    for look in range(1, 20):
        seen = {row: {s: found[s] for s in range(seeds)} for row, found in cells.items()}
        finding = finding_of(list(cells), seen, look)
        assert finding is not None
        if finding.best != NONE or finding.no_effect or seeds == 40 or finding.gain.mean <= 0:
            break
        seeds = min(40, seeds_needed(finding.gain, finding.compared, look))
    return finding.best


def test_advice_on_no_effect_is_rarely_wrong_and_finds_five_points() -> None:
    """With up to 40 seeds, as it asks for, false advice comes in at most 5% of comparisons."""
    random = np.random.default_rng(0)
    false = [followed(simulated(0, random)) != NONE for _ in range(400)]
    assert np.mean(false) <= 0.05
    found = [followed(simulated(5, random)) for _ in range(50)]
    assert np.mean([row == NFA for row in found]) > 0.9
    assert np.mean([row == RAND for row in found]) <= 0.05


@pytest.mark.parametrize("count", [2, 3, 8, 31, 32, 200])
@pytest.mark.parametrize("tail", [0.025, 0.001])
def test_95_of_100_means_lie_in_the_interval(count: int, tail: float) -> None:
    """Student's density, integrated over it."""
    freedom = count - 1
    half = student(tail, freedom)
    # Evenly spaced angles: the tails of one degree of freedom are long.
    edge = math.atan(half / math.sqrt(freedom))
    angles = np.linspace(-edge, edge, 100_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = np.cos(angles) ** (freedom - 1) / math.sqrt(math.pi)
    inside = float((density * math.exp(log)).mean() * 2 * edge)
    assert inside == pytest.approx(1 - 2 * tail, abs=5e-5)
