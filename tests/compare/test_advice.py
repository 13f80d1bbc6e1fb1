"""The advice of a comparison: what it says of known gains, and how often it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nfaug.compare import CompareConfig, CompareImages, Comparison
from nfaug.compare.advice import MOST_LEFT, finding_of
from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell, Gain, is_significant, student
from nfaug.compare.images import Part
from nfaug.compare.measured import MEASURED, measured_gains
from nfaug.compare.methods import PIXELS, Method

NONE, NFA, RAND = Method(), Method(PIXELS), Method("", "randaugment")
BOTH = Method(PIXELS, "randaugment")
FROZEN = Method(frozen=True)
MIXUP = Method("", "mixup")
NAMES = {
    MIXUP: "mixup",
    NONE: "none",
    NFA: "nfa",
    RAND: "randaugment",
    BOTH: "nfa+randaugment",
    FROZEN: "frozen",
}
SETTINGS = CompareConfig(per_class=10)


def compared(
    folder: Path,
    accuracies: Mapping[Method, Sequence[float]],
    images: int = 400,
    config: CompareConfig = SETTINGS,
    *,
    planned: int | None = None,
    side: int = 8,
    left: float = 0.01,
    lefts: Mapping[Method, float] | None = None,
    later: int = 0,
) -> Comparison:
    """A comparison whose classifiers are right on the first images."""
    cells = Cells(folder, {}, images)
    for method, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            right = np.arange(images) < accuracy * images / 100
            cells[method.name, seed] = Cell(right, 1.0, (lefts or {}).get(method, left))
    labels = torch.arange(images) % 10
    pixels = torch.zeros(images, 1, side, side, dtype=torch.uint8)
    part = Part(pixels, labels, torch.empty(0))
    names = [f"{number}.png" for number in range(images)]
    data = CompareImages([f"class {label}" for label in range(10)], part, part, names, [])
    methods = ",".join(NAMES[method] for method in accuracies)
    seeds = planned or len(next(iter(accuracies.values())))
    settings = replace(config, methods=methods, seeds=seeds, steps=60)
    return Comparison(settings, data, cells, later)


def test_the_simplest_of_the_best(tmp_path: Path) -> None:
    found = {NONE: [50.0, 51.0, 50.5, 50.0], NFA: [60.0, 61.0, 60.6, 60.1]}
    found[BOTH] = [60.2, 61.1, 60.4, 60.3]
    found[RAND] = [55.0, 56.0, 55.5, 55.1]
    comparison = compared(tmp_path, found)
    assert comparison.best() == NFA
    advice = comparison.advice()
    assert advice.startswith("Use NFA in pixels: +10")
    assert "Not told apart from it: NFA in pixels, then RandAugment (+10" in advice
    assert "RandAugment (+5" not in advice, "it is significantly below"
    assert comparison.methods == [NONE, RAND, NFA, BOTH]  # in the order of cost, not of gain
    assert "nfaug.NFAugment(" in comparison.text()


def test_every_method_within_the_interval_is_named(tmp_path: Path) -> None:
    """Of two that could not be told apart from the best, one was named, and not the better one."""
    found = {NONE: [40.0, 40.0, 40.5, 40.0], NFA: [60.0, 61.0, 60.6, 60.1]}
    found[RAND] = [55.0, 70.0, 41.0, 52.0]
    found[BOTH] = [62.0, 60.5, 61.0, 59.5]
    comparison = compared(tmp_path, found)
    named = [f"{comparison.title(method)} ({comparison.gain(method)})" for method in (RAND, BOTH)]
    assert comparison.advice().endswith(f"Not told apart from it: {' and '.join(named)}.")


def test_words_of_the_report(tmp_path: Path) -> None:
    """Of what keeps the class, of the one standard of significance, and of p where NFA is."""
    config = replace(SETTINGS, augment="crop,flip,color")
    found = {NONE: [50.0] * 4, RAND: [60.0] * 4}
    text = compared(tmp_path / "two", found, config=config).text()
    assert text.startswith("Use RandAugment")
    assert "on top of translations, flips and color changes |" in text
    assert "p = " not in text
    text = compared(tmp_path / "three", found | {NFA: [60.0] * 4}, config=config).text()
    assert "only if its gain is significant after correction for all 2 methods." in text
    assert "p = 0.5" in text
    again = compared(tmp_path / "later", found | {NFA: [60.0] * 4}, config=config, later=1).text()
    assert "all 2 methods and for 2 looks at these results." in again


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


@pytest.mark.parametrize("side", [8, 160])
def test_frozen_features_are_kept_unless_training_is_better(side: int, tmp_path: Path) -> None:
    """At one size; at two, the advice does not choose between frozen and fine-tuned."""
    weights = tmp_path / "w.safetensors"
    weights.touch()
    settings = CompareConfig(network="test_resnet", weights=str(weights))
    flat = {method: [60.0, 61.0, 60.0, 60.5] for method in (FROZEN, NONE, RAND, NFA)}
    kept = compared(tmp_path / "kept", flat, config=settings, side=side)
    better = flat | {NONE: [75.0, 76.0, 75.0, 75.5], NFA: [82.0, 83.0, 82.0, 82.5]}
    tuned = compared(tmp_path / "tuned", better, config=settings, side=side)
    assert tuned.best() == NFA
    if side == 160:
        assert kept.best() == FROZEN
        assert "import timm" in kept.text()
        assert tuned.advice().startswith("Use fine-tuned, NFA in pixels: +22")
        assert "over frozen features" in tuned.advice()
        assert "pixels and" not in kept.advice()
    else:
        assert kept.best() == NONE
        assert "fine-tuned at 8 x 8 pixels, NFA in pixels: +7" in tuned.advice()
        for comparison in (kept, tuned):
            assert "Frozen features had 160 x 160 pixels and" in comparison.advice()
            assert "| frozen features at 160 x 160 pixels | 60.4 |" in comparison.text()


def test_the_folder_has_no_advice_before_its_last_seed(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {NONE: [50.0] * 4, NFA: [70.0] * 4}, planned=10)
    assert comparison.advice() == "4 of 10 seeds: no advice yet."
    assert comparison.best() == NONE
    assert "| NFA in pixels | 70.0 | +20" in comparison.text()
    assert "**" not in comparison.text()


def test_trainings_that_are_too_short(tmp_path: Path) -> None:
    """60 steps gave RandAugment -17 ± 9, and firm advice."""
    found = {NONE: [50.0] * 4, NFA: [70.0] * 4}
    short = compared(tmp_path / "short", found, left=MOST_LEFT + 0.01)
    assert short.advice().startswith("No advice: training was too short. After 60 steps 6% of")
    assert "--steps" in short.advice()
    assert short.best() == NONE
    first = compared(tmp_path / "first", found, left=MOST_LEFT + 0.01, planned=10)
    assert first.advice() == short.advice(), "it is said after the first seed"
    assert compared(tmp_path / "long", found, left=MOST_LEFT - 0.01).best() == NFA


def test_methods_that_still_learn_are_named(tmp_path: Path) -> None:
    """After 240 steps RandAugment lost 15 points on steel, where it gained 5 after 800."""
    found = {NONE: [50.0] * 4, RAND: [40.0] * 4, MIXUP: [50.0] * 4}
    assert "Still learning" not in compared(tmp_path / "all", found).text()
    notes = compared(tmp_path / "some", found, lefts={RAND: 0.63, MIXUP: 0.7}).notes()
    (note,) = [note for note in notes if "Still learning" in note]
    assert note.endswith("is left: RandAugment (63%). With more --steps these may gain more.")


def test_measured_gains_stand_beside_the_accuracy(tmp_path: Path) -> None:
    assert {len(row) for row in MEASURED} == {4}
    low = [row for row in MEASURED if row[1] < 55]
    said = measured_gains(30.0)
    assert f"in {len(low)} comparisons from scratch with an accuracy below 55%" in said
    assert f"NFA in pixels {np.mean([row[2] for row in low]):+.1f} (" in said
    assert measured_gains(55.0) == measured_gains(100.0) != said
    text = compared(tmp_path, {NONE: [30.0] * 4, NFA: [30.0] * 4}).text()
    assert said in text


def test_all_methods_and_looks_count_in_the_correction() -> None:
    """A gain is significant alone, and not as one of 300, or at a late look."""
    gain = Gain(3.0, 1.0, 0.3, 20)
    assert is_significant(gain, 1)
    assert not is_significant(gain, 30)
    assert not is_significant(gain, 1, later=5)
    cells: dict[Method, dict[int, Cell]] = {NONE: {}, NFA: {}}
    for seed, points in enumerate((3, 5, 4, 6)):
        cells[NONE][seed] = Cell(np.arange(20000) < 10000, 1.0)
        cells[NFA][seed] = Cell(np.arange(20000) < 10000 + 200 * points, 1.0)
    verdicts = {}
    for later in (0, 8):
        finding = finding_of([NONE, NFA], cells, later)
        assert finding is not None
        verdicts[later] = finding.best
    assert verdicts == {0: NFA, 8: NONE}


def test_all_labels_have_no_variation_of_images(tmp_path: Path) -> None:
    for per_class in (None, 3):
        config = CompareConfig(per_class=per_class)
        found = compared(
            tmp_path / str(per_class), {NONE: [1.0] * 3, NFA: [1.0] * 3}, config=config
        )
        said = any("same labelled images" in note for note in found.notes())
        assert said == (per_class is None)


def simulated(gain: float, random: np.random.Generator) -> dict[Method, dict[int, Cell]]:
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

    def advised(gain: float) -> Method:
        finding = finding_of([NONE, NFA, RAND], simulated(gain, random))
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
