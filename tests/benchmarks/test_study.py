"""The study: intervals, resumption, and the images that each arm uses."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import CLASSES, NAMES, images_of

from benchmarks.study import (
    arms,
    ascent,
    banks,
    bases,
    candidates,
    cells,
    classifiers,
    comparison,
    data,
    flows,
    gains,
    isda,
    pictures,
    report,
    rivals,
    run,
    semi_supervised,
    tables,
)
from benchmarks.study.cells import Cell
from nfaug import Checkpoint
from nfaug.data.images import TensorImages
from nfaug.training.evaluation.intervals import interval

pytestmark = pytest.mark.soak  # test_study_smoke.py is in the default run

CELL = Cell("tiny", "nfa", "l", "none", 6, 0, "test", 4, "p=0.5 alpha=1 mix=axis")
ROW = {
    "accuracy": "80.25", "tested": 100, "kept": "", "bank_seconds": "0.0",
    "train_seconds": "1.5", "torch": "2", "flow_sha": "", "right": "",
}  # fmt: skip


@pytest.fixture
def locked_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whoever opens data beyond the labelled images fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("data beyond the labelled images were opened")

    for module in (data, flows):
        for name in ("training_images", "unlabelled_images", "open_dataset"):
            monkeypatch.setattr(module, name, refuse, raising=False)


def no_loss(*_: Any) -> torch.Tensor:
    raise AssertionError("the classifier was asked")


def test_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert not found.clear
    assert interval([3.0, 3.1, 3.2]).clear
    alone = interval([5.0])
    assert alone.half == math.inf
    assert (str(alone), alone.shown("+"), str(found)) == ("5.0", "+5.0", "2.0 ± 2.5")
    with pytest.raises(ValueError, match="values"):
        interval([])


def test_half_width_covers_the_mean_in_95_of_100_studies() -> None:
    draws = torch.randn(600, 10, generator=torch.Generator().manual_seed(0))
    found = [interval(row) for row in draws.tolist()]
    missed = sum(abs(each.mean) > each.half for each in found) / len(found)
    assert 0.03 < missed < 0.075


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
    for seed in (0, 1):
        cells.append(file, replace(CELL, seed=seed), ROW)
    file.write_text(file.read_text()[:-12])
    assert list(cells.read(file)) == [CELL]
    cells.append(file, replace(CELL, seed=1), ROW)
    assert list(cells.read(file)) == [CELL, replace(CELL, seed=1)]
    file.write_text(file.read_text().replace(",flow_sha", ""))
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


def tuned(network: str, rows: dict[Cell, dict[str, str]], name: str = "cifar10") -> Cell:
    """Add both rounds of the table "network" to `rows`; returns the first cell of the best."""
    first = comparison.network_tuning(rows, name, network)
    rows |= {cell: {"accuracy": f"{50 + n}"} for n, cell in enumerate(first)}
    second = comparison.network_tuning(rows, name, network)[len(first) :]
    assert {replace(cell, seed=first[0].seed) for cell in second} == set(first[-3:])
    best = second[1]
    rows |= {cell: {"accuracy": f"{50 + 20 * (cell.network == best.network)}"} for cell in second}
    assert {(cell.arm, cell.base, cell.split) for cell in first + second} == {
        ("none", rivals.protocol(name).geometry, "tuning")
    }
    return best


def stack(rows: dict[Cell, dict[str, str]]) -> None:
    """Add the table "stacked-tuning" to `rows`; a share of 0.2 is best."""
    tried = comparison.stacked_tuning(rows, "cifar10")
    assert len(set(tried)) == 3 * 5 * 3, "three shares of what needs no base"
    assert {cell.split for cell in tried} == {"tuning"}
    assert len({cell.base for cell in tried}) == 1
    rows |= {cell: {"accuracy": "60" if "p=0.2" in cell.settings else "50"} for cell in tried}


def test_rivals_are_chosen_by_one_rule_and_reported_on_other_seeds() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    with pytest.raises(ValueError, match="6 cells"):
        comparison.tuning(rows, "cifar10")
    network = tuned("small-cnn", rows).network
    tried = comparison.tuning(rows, "cifar10")
    assert {(cell.split, cell.network) for cell in tried} == {("tuning", network)}
    for known in (rivals.RIVALS, rivals.GRAY_RIVALS):
        numbers = {name: len(set(each)) for name, each in known.items()}
        assert numbers.pop("RandAugment") == 9
        assert set(numbers.values()) == {6}, "equal budgets"
    rows |= {
        cell: {"accuracy": "60" if "@0.5" in cell.base or "p=0.8" in cell.settings else "50"}
        for cell in tried
        if cell not in rows
    }
    chosen = comparison.choose(rows, "cifar10")
    assert chosen["CutMix"].suffix == "cutmix:0.2@0.5"
    assert chosen["NFA"].settings.startswith("p=0.8")
    with pytest.raises(ValueError, match="table stacked-tuning"):
        comparison.rivals(rows, "cifar10", 2)
    stack(rows)
    reported = comparison.rivals(rows, "cifar10", 2)
    assert {(cell.split, cell.network) for cell in reported} == {("test", network)}
    assert not {cell.seed for cell in reported} & {cell.seed for cell in rows}
    assert len(set(reported)) == len(reported) == 2 * (8 * 3 + 3 + 6)
    assert {cell.base for cell in reported if cell.arm == "none"} == {
        "none",
        "flip+crop:4",
        "flip+crop:4+randaugment:2:9@0.5+cutmix:0.2@0.5",
        *(f"flip+crop:4+{each.suffix}" for each in chosen.values() if each.suffix),
    }
    before = {cell.settings for cell in reported if cell.base.endswith("randaugment:2:9@0.5")}
    assert {text.partition(" ")[0] for text in before} == {"", "p=0.2"}
    longer = comparison.longer(rows, "cifar10")
    assert {(cell.split, cell.steps) for cell in longer} == {("tuning", 4000)}
    assert len({replace(cell, steps=2000) for cell in longer} & set(tried)) == len(longer) == 15
    with pytest.raises(ValueError, match="table label-tuning"):
        comparison.labels(rows, "cifar10", 2)
    by_labels = comparison.label_tuning(rows, "cifar10")
    assert len(set(by_labels)) == 3 * 3 * (1 + 5 + 2 * 3), "RandAugment has five"
    rows |= {
        cell: {"accuracy": "60" if f"p=0.{cell.per_class // 100}" in cell.settings else "50"}
        for cell in by_labels
    }
    assert not {cell.per_class for cell in by_labels} & {cell.per_class for cell in tried}
    fewer = comparison.labels(rows, "cifar10", 2)
    assert {cell.per_class for cell in fewer} == {10, 100, 500}
    assert len(set(fewer)) == len(fewer) == 2 * 3 * 6
    most = {cell.settings for cell in fewer if cell.per_class == 500 and cell.arm == "nfa"}
    assert most == {"p=0.5 strength=1.5 gate=1.25 variants=20"}
    del rows[tried[0]]
    with pytest.raises(ValueError, match="1 cells"):
        comparison.choose(rows, "cifar10")


def test_photographs_have_choices_of_their_own() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    tuned("photo-cnn", rows, "clothing128")
    tried = comparison.tuning(rows, "clothing128")
    assert {(cell.per_class, cell.split) for cell in tried} == {(0, "tuning")}
    assert len(set(tried)) == 2 * (1 + 5 + 2 * 3), "two seeds; RandAugment has five"
    rows |= {
        cell: {"accuracy": "60" if "p=0.2" in cell.settings else "50"}
        for cell in tried
        if cell not in rows
    }
    found = comparison.photographs(rows, "clothing128", 3)
    assert len(set(found)) == len(found) == 3 * 2 * 3
    assert {cell.base for cell in found} == {"flip+crop:12", "flip+crop:12+randaugment:1:9@0.5"}
    assert {cell.flow for cell in found} == {"-", "p32", "b"}
    assert {cell.settings.partition(" ")[0] for cell in found} == {"", "p=0.2"}
    more = comparison.photographs(rows, "clothing128", 3, given=True)
    assert {cell.flow for cell in set(more) - set(found)} == {"f"}


def test_settings_of_a_larger_network_are_chosen_in_two_rounds() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    tuned("small-cnn", rows)
    rows = {cell: {"accuracy": "50"} for cell in comparison.tuning(rows, "cifar10")} | rows
    count = len(comparison.NETWORK_SETTINGS["resnet18"])
    with pytest.raises(ValueError, match=f"{count} cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    best = tuned("resnet18", rows)
    strengths = comparison.headline_tuning(rows, "cifar10", "resnet18")
    assert {(cell.arm, cell.seed) for cell in strengths} == {("none", 200)}
    assert len(strengths) == 2
    with pytest.raises(ValueError, match="2 cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    rows |= {cell: {"accuracy": f"{50 + n}"} for n, cell in enumerate(strengths)}
    shares = comparison.headline_tuning(rows, "cifar10", "resnet18")[2:]
    assert [(cell.base, cell.settings[:5]) for cell in shares] == [
        ("flip+crop:4+randaugment:2:9", "p=0.2"),
        ("flip+crop:4+randaugment:2:9", "p=0.5"),
    ]
    with pytest.raises(ValueError, match="2 cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    rows |= {cell: {"accuracy": f"{50 - n}"} for n, cell in enumerate(shares)}
    large = comparison.headline(rows, "cifar10", 5, "resnet18")
    tuned_cells = [*strengths, *shares]
    assert {(cell.network, cell.steps) for cell in large + tuned_cells} == {
        (best.network, best.steps)
    }
    assert len(set(large)) == len(large) == 25
    by_base = {cell.base: cell.settings[:5] for cell in large if cell.flow == "b"}
    assert by_base == {"flip+crop:4": "p=0.5", "flip+crop:4+randaugment:2:9": "p=0.2"}
    assert {cell.base for cell in large if cell.flow == "p"} == {"flip+crop:4"}
    assert {cell.split for cell in large} == {"test"}
    tuned("small-swin", rows)
    swin = comparison.headline_tuning(rows, "cifar10", "small-swin")
    assert [cell.base.partition("+randaugment:")[2] for cell in swin] == [
        "1:9",
        "2:9",
        "2:14:128",
        "3:14:128",
    ]
    with pytest.raises(ValueError, match="'vgg'"):
        comparison.network_tuning(rows, "cifar10", "vgg")
    with pytest.raises(ValueError, match="'small-cnn'"):
        comparison.headline_tuning(rows, "cifar10", "small-cnn")


def test_no_flow_at_its_own_side_mixes_small_images(source: data.DataSet, tmp_path: Path) -> None:
    labels = torch.arange(6) % 3
    large = TensorImages(torch.randint(0, 256, (6, 3, 48, 40), dtype=torch.uint8), labels, NAMES)
    assert flows.flow_for("p32", source, large, 0, tmp_path).flow.codec.image_size == (32, 32)
    assert flows.flow_for("p", source, large, 0, tmp_path).flow.codec.image_size == (48, 40)
    given = replace(source, flow="builtin:fashion-mnist")
    assert flows.flow_for("f", given, large, 0, tmp_path).flow.codec.image_size == (28, 28)


def test_validation_and_labelled_images_are_disjoint(source: data.DataSet) -> None:
    held = data.held_out(source, "validation")
    few = data.labelled(source, 6, seed=3)
    assert torch.bincount(held.labels).tolist() == [20] * CLASSES
    assert torch.bincount(few.targets).tolist() == [6] * CLASSES
    same = (held.images[:, None] == few.images[None]).flatten(2).all(2)
    assert not same.any()
    tuning, few = data.held_out(source, "tuning"), data.labelled(source, 6, 3, "tuning")
    assert not (tuning.images[:, None] == few.images[None]).flatten(2).all(2).any()
    assert not torch.equal(tuning.images, held.images)
    every = len(data.training_images(source))
    assert len(data.labelled(source, 0, 3, "test")) == every
    assert len(data.labelled(source, 0, 3, "tuning")) == every - len(tuning.labels)
    with pytest.raises(ValueError, match="'train'"):
        data.held_out(source, "train")


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("none", ""),
        ("mixup", "p=0.5 alpha=1"),
        ("noise", "p=0.5 scale=0.3"),
        ("nfa", "p=0.5 alpha=1 mix=axis"),
    ],
)
def test_an_arm_sees_its_labelled_images_alone(
    arm: str,
    settings: str,
    source: data.DataSet,
    small_flows: None,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    few = data.labelled(source, 6, seed=0)
    request.getfixturevalue("locked_data")
    cell = replace(CELL, arm=arm, settings=settings, flow="l" if arm in ("noise", "nfa") else "-")
    bank = None
    if cell.flow == "l":
        flow = flows.flow_for("l", source, few, 0, tmp_path)
        maker = arms.ARMS[arm].bank
        assert maker is not None
        bank, kept, seconds = banks.bank_for(cell, maker, flow, few, tmp_path)
        assert bank.shape == (len(few), 2, 1, 8, 8)
        assert 0 < kept <= 1
        assert seconds > 0
        flipped = replace(cell, base="flip+crop")
        again, _, _ = banks.bank_for(flipped, maker, flow, few, tmp_path)
        assert torch.equal(again, bank)
    draw = arms.make_draw(cell, few, bank, no_loss)
    rows = torch.arange(len(few))
    images = draw(rows, torch.Generator().manual_seed(0), 0.0)
    assert images.dtype == torch.uint8
    assert torch.equal(images, few.images) == (arm == "none")
    assert torch.equal(images, draw(rows, torch.Generator().manual_seed(0), 0.5))


def test_other_flows_use_no_label(source: data.DataSet, small_flows: None, tmp_path: Path) -> None:
    few = data.labelled(source, 6, seed=0)
    flow = flows.flow_for("u", source, few, 5, tmp_path)
    assert flow.config.gaussians["kind"] == "single"
    assert flow.config.class_names == ()
    assert flow.pca is None
    assert flow.config.training["images"] == len(data.training_images(source))
    assert (tmp_path / "flow-u-tiny" / "config.json").exists()


def test_nfa_without_a_flow(source: data.DataSet, small_flows: None, tmp_path: Path) -> None:
    few = data.labelled(source, 6, seed=0)
    flow = flows.flow_for("p", source, few, 0, tmp_path)
    assert flow.flow.config.shape == (1, 8, 8)
    settings = {"alpha": "1", "gate": "off", "variants": "2"}
    bank = banks.nfa_bank(flow, few, settings, 0)
    assert bank.shape == (len(few), 2, 1, 8, 8)
    assert (bank != few.images[:, None]).any()
    assert not any(tmp_path.iterdir()), "nothing is trained or kept"
    assert report._saw("p").startswith("nothing")


def test_nfa_of_images_larger_than_the_flow(source: data.DataSet) -> None:
    few = data.labelled(source, 6, seed=0)
    large = torch.nn.functional.interpolate(few.images.float(), size=(56, 56), mode="bilinear")
    images = TensorImages(large.to(torch.uint8), few.targets, few.classes)
    flow = flows.flow_for("b", source, images, 0, Path())
    assert flow.flow.config.shape == (1, 28, 28)
    bank = banks.nfa_bank(flow, images, {"alpha": "1", "gate": "off", "variants": "2"}, 0)
    assert bank.shape == (len(few), 2, 1, 56, 56)
    assert (bank != images.images[:, None]).any()


def test_levels_of_latents(tiny_checkpoint: Checkpoint) -> None:
    flow = tiny_checkpoint.flow
    levels = candidates.latent_levels(flow)
    last = flow.config.levels - 1
    assert levels.unique().tolist() == list(range(last + 1))
    coarse = flow.config.dim >> last  # each level but the last sets half of its latents aside
    assert int((levels == last).sum()) == coarse


@pytest.mark.parametrize(
    "more",
    [
        *("", "variance=1", "mix=pair", "levels=coarse", "axes=image", "near=2"),
        *("global=8 shrink=0.5", "ascent=0.5"),
    ],
)
def test_mixing_latents(
    more: str,
    source: data.DataSet,
    tiny_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ascent, "_STEPS", 3)
    few = data.labelled(source, 6, seed=0)
    settings = dict(word.split("=") for word in f"variants=2 {more}".split())
    bank = candidates.latent_bank(tiny_checkpoint, few, settings, 0, source)
    assert bank.shape == (len(few), 2, 1, 8, 8)
    assert (bank != few.images[:, None]).flatten(2).any(2).float().mean() > 0.9
    assert torch.equal(bank, candidates.latent_bank(tiny_checkpoint, few, settings, 0, source))


def test_without_change_latents_decode_to_their_image(
    source: data.DataSet, tiny_checkpoint: Checkpoint
) -> None:
    few = data.labelled(source, 6, seed=0)
    for more in ({}, {"axes": "image"}, {"global": "8"}):
        settings = {"variants": "1", "strength": "0", **more}
        bank = candidates.latent_bank(tiny_checkpoint, few, settings, 0, source)
        assert torch.equal(bank[:, 0], few.images)


def test_axes_of_the_image_are_its_principal_components_in_pixel_space() -> None:
    images = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    plain, rotated = (
        candidates._class_axes(images, images, settings, None)
        for settings in ({}, {"axes": "image"})
    )
    assert torch.allclose(plain.coefficients.abs(), rotated.coefficients.abs(), atol=1e-4)
    coefficients = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(0)
    weights, difference = candidates._mixing(coefficients, {"variance": "1"}, draws)
    step = weights * difference
    assert (coefficients + step).var() == pytest.approx(1.0, abs=0.05), "the variance is kept"
    nearest = candidates._partners(torch.arange(6.0)[:, None], 1, torch.Generator())
    assert nearest[[0, 5]].tolist() == [1, 4]


def test_hard_selection_takes_the_largest_loss(source: data.DataSet) -> None:
    few = data.labelled(source, 6, seed=0)
    bank = torch.arange(5, dtype=torch.uint8)[None, :, None, None, None].expand(
        len(few), -1, *few.images.shape[1:]
    )
    asked = []

    def brightest(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append(labels)
        return images.float().flatten(1).mean(1)

    rows = torch.arange(len(few)).repeat(20)
    cell = replace(CELL, settings="p=1 hard=3")
    draw = arms.make_draw(cell, few, bank, brightest)
    images = draw(rows, torch.Generator().manual_seed(0), 0.0)
    assert torch.equal(asked[0], few.targets[rows].repeat(3))
    found = images[:, 0, 0, 0].float()
    assert found.mean() == pytest.approx(3.0, abs=0.2), "the mean of the largest of three of 0 to 4"
    fading = arms.make_draw(replace(CELL, settings="p=1 fade=1"), few, bank + 200, no_loss)
    for done in (0.0, 0.5, 1.0):
        images = fading(rows, torch.Generator().manual_seed(0), done)
        new = (images != few.images[rows]).flatten(1).any(1).float().mean()
        assert new == pytest.approx(1 - done, abs=0.1)


def test_tilted_weights() -> None:
    weights = torch.tensor([[0.5, 1.0, 1.0, 1.0]])
    values = torch.tensor([[16.0, 4.0, 1.0, 0.0]])
    down = banks.tilted(weights, values, 1.0)
    assert torch.allclose(down, torch.tensor([[0.5, 0.5, 0.25, 0.0]]))
    up = banks.tilted(weights, values, -1.0)
    assert torch.allclose(up, torch.tensor([[0.125, 0.5, 1.0, 0.0]]))


def test_settings_of_a_variant(source: data.DataSet, small_flows: None, tmp_path: Path) -> None:
    few = data.labelled(source, 6, seed=0)
    flow = flows.flow_for("l", source, few, 0, tmp_path)
    made = []
    for more in ({}, {"tilt": "2"}, {"noise": "0.5"}):
        settings = {"alpha": "1", "gate": "off", "variants": "2", **more}
        made.append(banks.nfa_bank(flow, few, settings, 0))
        assert made[-1].shape == (len(few), 2, *few.images.shape[1:])
        assert (made[-1][:, 0] != made[-1][:, 1]).any()
    assert all((variants != few.images[:, None]).any() for variants in made)
    assert all((variants != made[0]).any() for variants in made[1:])


def test_pixel_mixup_stays_in_the_class() -> None:
    labels = torch.arange(12) % 3
    images = (labels * 100)[:, None, None, None].to(torch.uint8).expand(-1, 1, 2, 2).clone()
    draws = torch.Generator().manual_seed(0)
    mixed = arms.pixel_mixup(images, labels, torch.arange(12), 1.0, 1.0, draws)
    assert torch.equal(mixed, images), "of two images of a class that are alike"
    images[0] = 50
    mixed = arms.pixel_mixup(images, labels, torch.tensor([0]), 1.0, 1.0, draws)
    assert 0 <= int(mixed.min()) < 50
    alone = arms.pixel_mixup(images, labels, torch.arange(12), 0.0, 1.0, draws)
    assert torch.equal(alone, images)


def test_flip_and_crop_moves_and_mirrors() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    many = image.expand(64, -1, -1, -1)
    still = data.flip_and_crop(many, torch.Generator().manual_seed(0), margin=0)
    mirrored = (still == image.flip(-1)).flatten(1).all(1)
    assert torch.equal(still[~mirrored], image.expand(int((~mirrored).sum()), -1, -1, -1))
    assert 16 < int(mirrored.sum()) < 48
    moved = data.flip_and_crop(many, torch.Generator().manual_seed(0), margin=1)
    inner = image[0, 0, 1:3, 1:3].flatten().sort().values
    for each in moved:
        assert torch.isin(inner, each).all(), "a shift by one pixel keeps the inner ones"
    assert len({tuple(each.flatten().tolist()) for each in moved}) > 9
    unflipped = data.flip_and_crop(many, torch.Generator().manual_seed(0), margin=0, flip=False)
    assert torch.equal(unflipped, many)


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


def test_settings_with_most_seeds_are_preferred() -> None:
    first, *others = (replace(CELL, settings=f"p=0.{n}") for n in (2, 5, 8))
    found = {first: outcomes(80, 81)} | {each: outcomes(90) for each in others}
    assert gains.preferred(found) == [first]
    del found[first]
    found[others[1]] = outcomes(91)
    assert gains.preferred(found) == [others[1]]
    held_out = {replace(others[0], split="tuning"): outcomes(50)}
    held_out[replace(others[1], split="tuning")] = outcomes(49)
    assert gains.preferred(found, every=held_out | found) == [others[0]]
    held_out[replace(others[1], split="tuning")] = outcomes(49, 48)
    assert gains.preferred(found, every=held_out | found) == [others[1]], "other held-out seeds"


def test_a_base_is_the_best_on_held_out_images() -> None:
    """Also where another one is better on test images, and the same for all arms on top of it."""
    alone = replace(CELL, arm="none", flow="-", base="flip+crop+randaugment:1:9", settings="")
    other = replace(alone, base="flip+crop+randaugment:2:9")
    found = {alone: outcomes(70), other: outcomes(75)}
    found |= {replace(each, arm="nfa", flow="p"): outcomes(80) for each in (alone, other)}
    held_out = {replace(alone, split="tuning"): outcomes(60)}
    held_out[replace(other, split="tuning")] = outcomes(59)
    taken = gains.preferred(found, pictures.place_of, held_out | found)
    assert {key.base for key in taken} == {alone.base}
    assert len(taken) == 2
    assert gains.preferred(found, pictures.place_of) != taken, "held-out images made the choice"


def outcomes(*accuracies: float) -> dict[int, gains.Outcome]:
    return dict(enumerate(map(gains.Outcome, accuracies)))


def test_a_gain_has_an_interval_over_images_too() -> None:
    right = torch.rand(2, 3, 900) < torch.tensor([0.8, 0.7])[:, None, None]  # arms, seeds, images
    rows = [
        {"tested": "900", "right": gains.packed(each), "accuracy": f"{100 * each.float().mean()}"}
        for each in right.flatten(0, 1)
    ]
    assert (torch.from_numpy(gains.unpacked(rows[0])) == right[0, 0]).all()
    by_seed = [gains.Outcome(float(row["accuracy"]), gains.unpacked(row)) for row in rows]
    gain = gains.gains(dict(enumerate(by_seed[:3])), dict(enumerate(by_seed[3:])))
    assert gain is not None
    table = right[0].double() - right[1].double()
    each = table.mean(0)
    rest = table - each - table.mean(1, keepdim=True) + table.mean()
    unexplained = float((rest**2).sum()) / (2 * 899)
    variance = max(0.0, float(each.var()) - unexplained / 3) / 900
    assert math.isclose(gain.images, 196 * variance**0.5, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(gain.mean, 100 * float(each.mean()), abs_tol=1e-4)
    alone = gains.gains({0: by_seed[0]}, {0: by_seed[3]})
    assert alone is not None
    assert math.isclose(alone.images, 196 * float(table[0].std()) / 30, rel_tol=1e-9)
    assert gains.Gain(1.0, 0.8, 3, 0.6).shown("+") == "+1.0 ± 0.8 ± 0.6"
    assert math.isclose(gains.Gain(1.0, 0.8, 3, 0.6).total, 1.0)
    assert gains.Gain(1.0, math.inf, 1, 0.6).shown("+") == "+1.0 ± ? ± 0.6"
    assert gains.Gain(1.0, 0.8, 5, 0.7).clear is False
    assert gains.Gain(1.0, 0.4, 5, 0.7).clear is True
    assert gains.Gain(1.0, 0.0, 4, 0.0).clear is False
    assert gains.Gain(1.0, 0.0, 3).clear is True
    assert gains.Gain(1.0, 0.0, 2).clear is False


def test_images_and_seeds_are_not_counted_twice() -> None:
    """Neither seeds nor images have effects of their own: the seeds' interval holds everything."""
    seeds, images, draws = 10, 400, 300
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(draws, 2, seeds, images, generator=generator) < 0.5
    beyond, within = [], []
    for one, other in right.numpy():
        arms = (
            {seed: gains.Outcome(100 * float(each.mean()), each) for seed, each in enumerate(arm)}
            for arm in (one, other)
        )
        gain = gains.gains(*arms)
        assert gain is not None
        beyond.append(gain.images)
        within.append(abs(gain.mean) <= gain.total)
    assert statistics.median(beyond) < 0.5
    assert 0.93 < statistics.mean(within) < 0.99


def test_versions_of_a_flow_are_not_averaged() -> None:
    cell = replace(CELL, flow="b")
    rows = {replace(cell, seed=n): ROW | {"flow_sha": f"{n}a"} for n in range(2)}
    with pytest.raises(ValueError, match="0a, 1a"):
        gains.groups(rows)


def test_gains_are_differences_within_seeds() -> None:
    gain = gains.gains(outcomes(81, 92, 70), outcomes(80, 91))
    assert gain is not None
    assert (gain.mean, gain.half, gain.seeds) == (1.0, 0.0, 2)
    assert gains.gains({0: gains.Outcome(1.0)}, {1: gains.Outcome(1.0)}) is None


@pytest.mark.parametrize(
    "base",
    [
        "flip+crop:1",
        "randaugment:1:3",
        "trivialaugment@0.9",
        "shift:2",
        "flip+crop+mixup:0.2",
        "cutmix",
        "cutmix:1@0.01",
        "isda:0.5",
    ],
)
def test_bases(base: str) -> None:
    images, labels = images_of(torch.arange(9) % 3, channels=1), torch.arange(9) % 3
    torch.manual_seed(0)  # RandAugment draws from the global generator
    changed, targets = bases.apply_base(images, labels, base, 3, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert targets.shape == ((9, 3) if "mix" in base else (9,))
    assert torch.equal(changed, images) == (base in ("isda:0.5", "cutmix:1@0.01"))


def test_a_probability_of_a_base_is_that_of_an_image() -> None:
    images, labels = images_of(torch.arange(400) % 3, channels=1), torch.arange(400) % 3
    draws = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    changed, _ = bases.apply_base(images, labels, "randaugment:2:9@0.5", 3, draws)
    share = (changed != images).flatten(1).any(1).float().mean()
    assert 0.3 < share < 0.5, "some operations leave an image as it is"


@pytest.mark.parametrize(
    ("base", "wrong"),
    [
        ("flip+crop+turn", "turn"),
        ("crop", "flip"),
        ("flip+crop:2@0.5", "probability"),
        ("isda:1+consistency:12", "several losses"),
        ("isda", "isda:0.5"),
        ("randaugment@50", "probability"),
    ],
)
def test_unknown_bases(base: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        bases.base_parts(base)


def test_a_consistency_loss_sees_the_image_and_what_the_arm_makes_of_it() -> None:
    images, labels = images_of(torch.arange(6) % 3, channels=1), torch.arange(6) % 3
    seen = []

    class Watch(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    model = Watch(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    before = model[1].weight.clone()
    classifiers.train_classifier(
        model,
        lambda rows, *_: 255 - images[rows],
        "consistency:12",
        labels,
        steps=1,
        seed=0,
        network="small-cnn:0.1:0:6",
        images=images,
    )
    (batch,) = seen
    first, second = batch.chunk(2)
    assert torch.allclose(first, -second, atol=1e-5), (
        "the second view of each image is its negative"
    )
    assert sorted(first.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted(classifiers.prepared(images).sum((1, 2, 3)).tolist()), abs=1e-4
    )
    assert not torch.equal(model[1].weight, before)


def test_networks_take_other_settings() -> None:
    assert classifiers.network_of("resnet18:0.02:1e-3:32").batch == 32
    assert classifiers.network_of("resnet18:0.02").weight_decay == 5e-3
    for wrong in ("resnet99", "resnet18:1:2:3:4"):
        with pytest.raises(ValueError, match=wrong):
            classifiers.network_of(wrong)


def test_accuracy_weighs_classes_alike() -> None:
    class First(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), -1)

    labels = torch.tensor([0, 0, 0, 1])
    held = data.Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels)
    assert classifiers.accuracy(First(), held) == 50


def test_a_step_up_the_loss(source: data.DataSet, tiny_checkpoint: Checkpoint) -> None:
    few = data.labelled(source, 6, seed=0)
    flow, labels = tiny_checkpoint.flow.freeze(), few.targets
    z = flow.encode(few.images)[0].flatten(1)
    axes = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))[0].T
    difference = (z.roll(1, 0) - z) @ axes.T
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, CLASSES))
    weights = torch.full_like(difference, 0.5)
    signs = ascent.weight_signs(flow, model, z, weights, difference, axes, labels)

    def loss(w: torch.Tensor) -> float:
        images = flow.decode((z + (w * difference) @ axes).view(-1, 1, 8, 8), quantize=False)
        return float(torch.nn.functional.cross_entropy(model(2 * images - 1), labels).detach())

    assert loss(weights + 0.01 * signs) > loss(weights) > loss(weights - 0.01 * signs)


def test_a_failed_cell_loses_no_other(
    source: data.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result(cell: Cell, *_: Any) -> dict[str, Any]:
        if cell.seed == 1:
            raise OSError("disk")
        return ROW

    monkeypatch.setattr(run, "run_cell", result)
    monkeypatch.setattr(
        run.concurrent.futures,
        "ProcessPoolExecutor",
        lambda jobs, mp_context: run.concurrent.futures.ThreadPoolExecutor(jobs),
    )
    wanted = [replace(CELL, seed=seed) for seed in (0, 1, 2)]
    with pytest.raises(RuntimeError, match="1 cells failed"):
        run.run(wanted, source, csv=tmp_path / "study.csv", work=tmp_path, jobs=2)
    assert {cell.seed for cell in cells.read(tmp_path / "study.csv")} == {0, 2}


def test_isda_bounds_the_loss_of_noisy_features() -> None:
    draws = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(4, 3)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 4, generator=draws) @ torch.randn(4, 4, generator=draws)
    rival = isda.ISDA(head, strength=0.8)
    plain = torch.nn.functional.cross_entropy(head(features), labels)
    for part in (slice(0, 100), slice(100, 300)):
        assert torch.isfinite(rival(features[part], labels[part], 0.0))
    own = features[labels == 1]
    assert torch.allclose(rival.covariance[1], torch.cov(own.T, correction=0), atol=1e-4)
    rival.update = lambda *_: None  # type: ignore[method-assign]  # the covariance is known
    assert torch.allclose(rival(features, labels, 0.0), plain)
    half = torch.linalg.cholesky(0.4 * rival.covariance)
    noise = torch.randn(500, 300, 4, 1, generator=draws)
    noisy = features + (half[labels] @ noise)[..., 0]
    expected = torch.nn.functional.cross_entropy(head(noisy).flatten(0, 1), labels.repeat(500))
    bound = rival(features, labels, 0.5)
    assert expected < bound < expected + 1


@pytest.mark.parametrize("network", list(classifiers.NETWORKS))
def test_a_network_is_trained_on_its_features(network: str) -> None:
    images, labels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6) % 3
    model = classifiers.new_classifier(3, 3, 0, network)
    features, head = classifiers._head(model)
    model.eval()
    with torch.no_grad():
        x = classifiers.prepared(images)
        assert torch.allclose(head(features(x)), model(x), atol=1e-5)
        before = head.weight.clone()
    classifiers.train_classifier(
        model, lambda rows, *_: images[rows], "isda:0.5", labels, steps=1, seed=0, network=network
    )
    assert not torch.equal(head.weight, before)


def test_borrowed_axes_hold_the_other_classes_deviations(tiny_checkpoint: Checkpoint) -> None:
    labels = torch.arange(12) % 3
    few = TensorImages(images_of(labels, channels=1), labels, NAMES)
    settings = {"shrink": "0.5", "rank": "9", "partners": "all", "gate": "off"}
    nfa = banks.fitted_augmentation(tiny_checkpoint, few, settings, 0)
    assert nfa.rank == 9, "as many as twelve images in three classes span; a class alone, three"
    assert nfa.memory_range(1) == (12, 24), "everybody's deviation"
    pca = nfa.engine.on(torch.device("cpu"))[1]
    z = nfa.engine.on(torch.device("cpu"))[0].encode(few.images)[0].flatten(1)
    for label in range(3):
        own = z[labels == label]
        kept = pca.memory[12 * label : 12 * label + 12][labels == label].float()
        back = pca.reconstruct(kept, torch.full((4,), label))
        assert torch.allclose(back, own, atol=0.02 * float(own.abs().max()))
    images, _ = nfa(few.images, labels)
    assert nfa.stats()["applied"] == 12
    assert not torch.equal(images, few.images)


def test_checkpoint_type_is_what_arms_take(tiny_checkpoint: Checkpoint) -> None:
    few = TensorImages(images_of(torch.arange(12) % 3, channels=1), torch.arange(12) % 3, NAMES)
    nfa = banks.fitted_augmentation(tiny_checkpoint, few, {"mix": "pair", "axes": "2"}, 0)
    assert (nfa.mix, nfa.axes, nfa.p) == ("pair", 2, 1.0)
    assert nfa.memory_range(2) == (8, 12)


def test_semi_supervised_fine_tuning_pulls_labelled_latents_to_their_class(
    source: data.DataSet, small_flows: None, tmp_path: Path
) -> None:
    few = data.labelled(source, 6, seed=3)
    start = flows.flow_for("u", source, few, 0, tmp_path).flow
    with torch.no_grad():
        gaussians = semi_supervised.class_gaussians(start, few)
        before = start.encode(few.images)[0]
        tuned = semi_supervised.fine_tuned(start, few, few.images, steps=30, seed=0)
        after = tuned.encode(few.images)[0]
        assert torch.equal(before, start.encode(few.images)[0]), "the flow itself stays"
    likely = gaussians.log_prob(after, few.targets) - gaussians.log_prob(before, few.targets)
    assert likely.mean() > 0


def test_an_earlier_flow_has_rows_alone(source: data.DataSet, tmp_path: Path) -> None:
    few = data.labelled(source, 6, seed=3)
    with pytest.raises(ValueError, match="'b1'"):
        flows.flow_for("b1", source, few, 0, tmp_path)
