"""The images, flows, banks and arms of the study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import CLASSES, NAMES, images_of
from study_tools import CELL

from benchmarks.study import arms, banks, candidates, data, flows, report
from benchmarks.study.cells import Cell
from nfaug import Checkpoint
from nfaug.data.images import TensorImages


@pytest.fixture
def locked_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whoever opens data beyond the labelled images fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("data beyond the labelled images were opened")

    for module in (data, flows, candidates):
        for name in ("training_images", "unlabelled_images", "open_dataset"):
            monkeypatch.setattr(module, name, refuse, raising=False)


def no_loss(*_: Any) -> torch.Tensor:
    raise AssertionError("the classifier was asked")


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
    [folder] = tmp_path.glob("flow-u-tiny-*/config.json")
    before = folder.stat().st_mtime_ns
    flows.flow_for("u", source, few, 5, tmp_path)
    assert folder.stat().st_mtime_ns == before, "trained once"


def test_a_flow_is_trained_anew_for_other_images(
    source: data.DataSet, small_flows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = data.labelled(source, 6, seed=0)
    for labelled in (few, data.labelled(source, 6, 0, "tuning")):
        flows.flow_for("l", source, labelled, 0, tmp_path)
    assert len([*tmp_path.glob("flow-l-tiny-0-*/config.json")]) == 2, "of another split"
    flows.flow_for("u", source, few, 0, tmp_path)
    monkeypatch.setattr(flows, "unlabelled_images", lambda _: few)
    flows.flow_for("u", source, few, 0, tmp_path)
    assert len([*tmp_path.glob("flow-u-tiny-*/config.json")]) == 2, "of other unlabelled images"


def test_a_bank_is_made_once_for_what_it_depends_on(source: data.DataSet, tmp_path: Path) -> None:
    few, made = data.labelled(source, 6, seed=0), 0
    flow = flows.flow_for("p", source, few, 0, tmp_path)
    other = flows.flow_for("p", source, TensorImages(few.images[..., :7], few.targets), 0, tmp_path)

    def maker(*_: Any) -> torch.Tensor:
        nonlocal made
        made += 1
        return few.images[:, None].clone()

    def bank(
        cell: Cell = CELL, flow: Checkpoint = flow, images: TensorImages = few, **where: str
    ) -> int:
        banks.bank_for(cell, maker, flow, images, tmp_path, replace(source, **where))
        return made

    assert bank() == 1
    assert bank(replace(CELL, base="flip+crop", settings="p=0.8 alpha=1 mix=axis")) == 1
    assert bank(unlabelled="elsewhere") == 1
    assert bank(replace(CELL, settings="p=0.5 alpha=2 mix=axis")) == 2
    assert bank(replace(CELL, seed=1)) == 3
    assert bank(flow=other) == 4
    assert bank(images=TensorImages(few.images.flip(-1), few.targets, few.classes)) == 5
    shared = replace(CELL, settings="global=4")
    assert (bank(shared), bank(shared, unlabelled="elsewhere")) == (6, 7)


def test_test_images_must_have_the_classes_of_the_training_images(
    source: data.DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = data.labelled(source, 6, seed=0)
    opened = few
    monkeypatch.setattr(data, "open_dataset", lambda *_, **__: opened)
    assert torch.equal(data.held_out(source, "test").images, few.images)
    opened = TensorImages(few.images, few.targets, [*few.classes[1:], "zebra"])
    with pytest.raises(ValueError, match="zebra"):
        data.held_out(source, "test")


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


def test_checkpoint_type_is_what_arms_take(tiny_checkpoint: Checkpoint) -> None:
    few = TensorImages(images_of(torch.arange(12) % 3, channels=1), torch.arange(12) % 3, NAMES)
    nfa = banks.fitted_augmentation(tiny_checkpoint, few, {"mix": "pair", "axes": "2"}, 0)
    assert (nfa.mix, nfa.axes, nfa.p) == ("pair", 2, 1.0)
    assert nfa.memory_range(2) == (8, 12)


def test_an_earlier_flow_has_rows_alone(source: data.DataSet, tmp_path: Path) -> None:
    few = data.labelled(source, 6, seed=3)
    with pytest.raises(ValueError, match="'b1'"):
        flows.flow_for("b1", source, few, 0, tmp_path)
