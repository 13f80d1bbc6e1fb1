"""The advice of a comparison: what it says of known gains, and how often it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from nfaug.compare import CompareConfig, Comparison, Images
from nfaug.compare.advice import collapsed, finding_of
from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell, Gain, is_clear, student
from nfaug.compare.images import Part
from nfaug.compare.plan import Plan
from nfaug.compare.rows import PIXELS, Row

NONE, NFA, RAND = Row(), Row(PIXELS), Row("", "randaugment")
BOTH = Row(PIXELS, "randaugment")
FROZEN, SMALL = Row(frozen="own"), Row(frozen="small")
SETTINGS = CompareConfig(rows="none,randaugment,nfa,nfa+randaugment", per_class=10)


def compared(
    folder: Path,
    accuracies: Mapping[Row, Sequence[float]],
    images: int = 400,
    config: CompareConfig = SETTINGS,
) -> Comparison:
    """A comparison whose classifiers are right on the first images."""
    cells = Cells(folder, {}, images)
    for row, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            cells[row.name, seed] = Cell(np.arange(images) < accuracy * images / 100, 1.0)
    labels = torch.arange(images) % 10
    pixels = torch.zeros(images, 1, 8, 8, dtype=torch.uint8)
    part = Part(pixels, labels, torch.empty(0))
    names = [f"{number}.png" for number in range(images)]
    data = Images([f"class {label}" for label in range(10)], part, part, names, [])
    planned = [row for row in (FROZEN, SMALL) if row in accuracies] + config.table()
    planned = list(dict.fromkeys(planned))
    rows = [row.name for row in planned if row in accuracies]
    left_out = [row.name for row in planned if row not in accuracies]
    seeds = len(next(iter(accuracies.values())))
    return Comparison(config, data, planned, cells, Plan(rows, left_out, seeds, 12, 10.0))


def test_the_simplest_of_the_best(tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0, 50.5, 50.0], NFA: [60.0, 61.0, 60.6, 60.1]}
    found[BOTH] = [60.2, 61.1, 60.4, 60.3]
    found[RAND] = [55.0, 56.0, 55.5, 55.1]
    comparison = compared(tmp_path, found)
    assert comparison.best() == NFA
    advice = comparison.advice()
    assert advice.startswith("Use NFA in pixels: +10")
    assert "over RandAugment" in advice
    assert comparison.rows == SETTINGS.table()  # in the order of cost, not of gain
    assert "nfaug.NFAugment(" in comparison.text()


def test_rows_that_cannot_be_told_apart_are_not_called_the_same(tmp_path: Path) -> None:
    found = {NONE: [40.0, 40.0, 40.5, 40.0], NFA: [60.0, 61.0, 60.6, 60.1]}
    found[RAND] = [55.0, 70.0, 41.0, 52.0]
    assert "not clearly apart from RandAugment (+" in compared(tmp_path, found).advice()


def test_words_of_the_report(tmp_path: Path) -> None:
    """Of what keeps the class, of one planned row, and of p where no row has it."""
    words = "crop,flip,colour"
    config = CompareConfig(rows="none,randaugment", per_class=10, augment=words)
    text = compared(tmp_path, {NONE: [50.0] * 4, RAND: [60.0] * 4}, config=config).text()
    assert "on top of translations, flips and colour changes |" in text
    assert "above zero over the planned row:" in text
    assert "p = " not in text


def test_what_limits_a_gain_is_named(tmp_path: Path) -> None:
    flat = {NONE: [50.0] * 4, RAND: [50.0] * 4}
    seeds = compared(tmp_path / "seeds", flat | {NFA: [53.0, 50.0, 52.0, 49.0]}, 20000)
    assert "number of seeds" in seeds.advice()
    images = compared(tmp_path / "images", flat | {NFA: [51.5, 51.5, 51.0, 51.5]}, 200)
    assert "--test-data" in images.advice()
    for comparison in (seeds, images):
        assert comparison.best() == NONE
        assert "±" in comparison.advice()
    lost = compared(tmp_path / "lost", flat | {NFA: [40.0, 41.0, 42.0, 40.0]})
    assert lost.best() == NONE
    assert lost.advice().startswith("Keep")
    assert "```" not in lost.text(), "there is nothing to paste"


def test_no_effect_is_an_answer(tmp_path: Path) -> None:
    found = {NONE: [90.0, 90.1, 90.0, 90.1], NFA: [90.1, 90.0, 90.1, 90.0]}
    found[RAND] = [90.0, 90.0, 90.1, 90.1]
    advice = compared(tmp_path, found, 20000).advice()
    assert "nothing gains a point" in advice
    assert "--test-data" not in advice


@pytest.mark.parametrize("count", [1, 2])
def test_two_seeds_have_no_interval(count: int, tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0][:count], NFA: [80.0, 81.0][:count], RAND: [51.0, 51.0][:count]}
    comparison = compared(tmp_path, found)
    table, _, _ = comparison.text().partition("\n- ")
    assert "±" not in table
    assert comparison.advice().startswith(f"No advice: {count} seeds")
    assert comparison.best() == NONE


def test_few_test_images(tmp_path: Path) -> None:
    found = {NONE: [10.0] * 5, NFA: [100.0] * 5}
    advice = compared(tmp_path / "29", found, 29).advice()
    assert advice.startswith("No advice: there are 29 test images")
    assert compared(tmp_path / "30", found, 30).best() == NFA


def test_frozen_features_are_kept_unless_training_is_better(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    settings = CompareConfig(network="resnet18", weights=str(weights))
    rows = [FROZEN, SMALL, *settings.table()[1:]]
    flat = {row: [60.0, 61.0, 60.0, 60.5] for row in rows}
    kept = compared(tmp_path / "kept", flat, config=settings)
    assert kept.best() == FROZEN
    assert "LogisticRegression" in kept.text()
    better = flat | {NONE: [75.0, 76.0, 75.0, 75.5], NFA: [82.0, 83.0, 82.0, 82.5]}
    tuned = compared(tmp_path / "tuned", better, config=settings)
    assert tuned.best() == NFA
    assert "over fine-tuned at 8 x 8 pixels" in tuned.advice()
    for comparison in (kept, tuned):
        assert "Fine-tuning had 8 x 8 pixels" in comparison.advice()
        assert "the network's own resolution" in comparison.text()
    one_size = compared(
        tmp_path / "one", {row: flat[row] for row in rows if row != SMALL}, config=settings
    )
    assert "pixels" not in one_size.advice()


def test_rows_without_time_are_named(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {NONE: [50.0] * 3, NFA: [51.0] * 3})
    assert comparison.left_out == [RAND, BOTH]
    assert "Left out, for want of time: RandAugment, NFA in pixels, then" in comparison.text()
    assert "--minutes 12" in comparison.text()


def test_rows_that_were_left_out_count_in_the_correction() -> None:
    """Clear alone, and not clear as one of 300 that were planned."""
    cells: dict[Row, dict[int, Cell]] = {NONE: {}, NFA: {}}
    for seed, gain in enumerate((3, 5, 4, 6)):
        cells[NONE][seed] = Cell(np.arange(20000) < 10000, 1.0)
        cells[NFA][seed] = Cell(np.arange(20000) < 10000 + 200 * gain, 1.0)
    verdicts = {}
    for planned in (1, 300):
        finding = finding_of([NONE, NFA], cells, planned)
        assert finding is not None
        verdicts[planned] = finding.best
    assert verdicts == {1: NFA, 300: NONE}
    gain = Gain(3.0, 1.0, 0.3, 20)
    assert is_clear(gain, 1)
    assert not is_clear(gain, 30)


def test_a_row_that_collapsed_in_a_seed_is_named(tmp_path: Path) -> None:
    found = {NONE: [50.0] * 5, NFA: [60.0, 61.0, 11.0, 60.0, 59.0]}
    text = compared(tmp_path, found).text()
    assert "NFA in pixels collapsed in seed 2: 11.0%" in text
    assert "nothing more collapsed" not in text
    random = np.random.default_rng(0)
    for chance, count, classes in ((0.6, 30, 2), (0.55, 300, 2), (0.14, 300, 10)):
        named = 0
        for _ in range(200):
            cells = {seed: Cell(random.random(count) < chance, 0.0) for seed in range(10)}
            named += bool(collapsed(cells, classes))
        assert named <= 2, "the noise of answers is no collapse"


@pytest.mark.parametrize(("accuracy", "named"), [(95.0, True), (85.0, False)])
def test_wrong_labels_where_the_table_can_tell(
    accuracy: float, named: bool, tmp_path: Path
) -> None:
    found = {NONE: [80.0] * 3, NFA: [accuracy] * 3}
    notes = compared(tmp_path, found, 40).notes()
    doubted = [note for note in notes if "labels may be wrong" in note]
    assert bool(doubted) == named
    if named:
        assert "39.png" in doubted[0]
        assert "37.png" not in doubted[0]


def test_all_labels_have_no_variation_of_images(tmp_path: Path) -> None:
    for per_class in (None, 3):
        config = CompareConfig(per_class=per_class)
        found = compared(tmp_path / str(per_class), {NONE: [1.0] * 3}, config=config)
        said = any("same labelled images" in note for note in found.notes())
        assert said == (per_class is None)


def simulated(gain: float, random: np.random.Generator) -> dict[Row, dict[int, Cell]]:
    """Five seeds of three rows on 500 images, the second of which gains some points."""
    luck = random.standard_normal((3, 5, 1)) * 0.02
    # Each image is right with a probability of its own, about 60% on average.
    ease = np.clip(0.6 + 0.2 * random.standard_normal(500), 0, 1)
    quality = np.array([0, gain / 100, 0])[:, None, None]
    right = random.random((3, 5, 500)) < ease + luck + quality
    rows = (NONE, NFA, RAND)
    return {row: {s: Cell(right[n, s], 1.0) for s in range(5)} for n, row in enumerate(rows)}


def test_advice_on_no_effect_is_rarely_wrong_and_finds_twelve_points() -> None:
    random = np.random.default_rng(0)

    def advised(gain: float) -> Row:
        finding = finding_of([NONE, NFA, RAND], simulated(gain, random), planned=2)
        assert finding is not None
        return finding.best

    false = [advised(0) != NONE for _ in range(400)]
    assert np.mean(false) <= 0.05
    found = [advised(12) for _ in range(50)]
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
