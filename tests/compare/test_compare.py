"""nfaug.compare: cells, gains, advice, resuming."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from nfa_tools import TensorImages
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

import nfaug
from nfaug.compare import CompareConfig, Comparison, compare
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import PIXELS, Augmentation
from nfaug.compare.images import split_images
from nfaug.compare.report import Cell, Cells, gain_of, student
from nfaug.compare.transforms import spec_augment, transform_of

TINY = CompareConfig(per_class=4, seeds=2, steps=3, variants=2)
ROWS = {"none", "nfa:builtin:pixels", "randaugment", "trivialaugment"}


@pytest.fixture(scope="module")
def images() -> TensorImages:
    """Three classes of 12 grey images, 8 x 8, told apart by their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(36) % 3
    pixels = (
        torch.randint(60, (36, 1, 8, 8), generator=generator) + 90 * labels[:, None, None, None]
    )
    return TensorImages(pixels.clamp(max=255).byte(), labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def whole(
    images: TensorImages, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Path]:
    """A comparison that nothing interrupted, and its folder. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    return compare(images, config=TINY, out=folder, progress=False), folder


def cells_of(folder: Path, accuracies: dict[Augmentation, list[float]], images: int = 400) -> Cells:
    """Cells whose classifiers are right on the first images."""
    cells = Cells(folder, {"steps": 3}, images)
    for augmentation, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            right = np.arange(images) < accuracy * images / 100
            cells[augmentation.name, seed] = Cell(right, 1.0)
    return cells


def test_settings_of_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "[]", "{"):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=r"settings\.json"):
            Cells(tmp_path, {"steps": 3}, 400)


def test_every_row_is_a_row_of_the_csv_file(whole: tuple[Comparison, Path]) -> None:
    found, folder = whole
    rows = list(csv.DictReader((folder / "cells.csv").read_text().splitlines()))
    assert {row["augmentation"] for row in rows} >= ROWS
    assert len(rows) == 2 * len(found.rows) == 12
    assert found.seeds == [0, 1]
    assert found.advice() in (folder / "table.md").read_text()
    assert (folder / "gains.png").stat().st_size > 1000


def test_the_same_call_goes_on_after_a_kill(
    images: TensorImages,
    whole: tuple[Comparison, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[int] = []
    train = Classifier.train

    def killed(self: Classifier, *args: Any, **options: Any) -> None:
        trained.append(self.seed)
        if len(trained) == 8:
            raise KeyboardInterrupt
        train(self, *args, **options)

    monkeypatch.setattr(Classifier, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(images, config=TINY, out=tmp_path / "cut", progress=False)
    assert "One seed" in (tmp_path / "cut" / "table.md").read_text()
    resumed = compare(images, config=TINY, out=tmp_path / "cut", progress=False)
    assert len(trained) == 13  # no classifier is trained twice
    assert resumed.rows == whole[0].rows
    for row in resumed.rows:
        assert resumed.accuracy(row) == whole[0].accuracy(row)


def test_other_settings_or_images_need_another_folder(
    images: TensorImages, whole: tuple[Comparison, Path]
) -> None:
    with pytest.raises(ValueError, match="variants"):
        compare(images, config=CompareConfig(per_class=4, steps=3), out=whole[1], progress=False)
    others = TensorImages(255 - images.images, images.targets, images.classes)
    with pytest.raises(ValueError, match="images"):
        compare(others, config=TINY, out=whole[1], progress=False)


def test_a_typo_leaves_nothing_behind(images: TensorImages, tmp_path: Path) -> None:
    test = TensorImages(255 - images.images, images.targets, images.classes)
    for change in ({"network": "resnet81"}, {"checkpoint": ("builtin:rgb32",)}):
        settings = replace(TINY, **change)
        with pytest.raises(ValueError, match=r"resnet81|3 channels"):
            compare(images, config=settings, out=tmp_path / "new", test_data=test, progress=False)
    larger = TensorImages(images.images.repeat(1, 1, 2, 2), images.targets, images.classes)
    with pytest.raises(ValueError, match="16, 16"):
        compare(images, config=TINY, out=tmp_path / "new", test_data=larger, progress=False)
    assert not (tmp_path / "new").exists()


def test_the_time_decides_the_number_of_seeds(images: TensorImages, tmp_path: Path) -> None:
    settings = CompareConfig(per_class=4, minutes=0.004, steps=2, variants=2)
    found = compare(images, config=settings, out=tmp_path, progress=False)
    assert 1 <= len(found.seeds) < settings.seeds


def test_gains_have_one_interval_over_seeds_and_images() -> None:
    ours = [Cell(np.arange(100) < 60, 0.0), Cell(np.arange(100) < 62, 0.0)]
    others = [Cell(np.arange(100) < 50, 0.0), Cell(np.arange(100) < 56, 0.0)]
    gain = gain_of(ours, others)
    assert gain.mean == pytest.approx(8)
    assert gain.seeds == pytest.approx(12.7062 * np.std([10, 6], ddof=1) / 2**0.5, rel=1e-4)
    changes = [0.5] * 6 + [1.0] * 4 + [0.5] * 2  # 50-56, 56-60, 60-62
    spread = np.std([*changes, *[0.0] * 88])
    assert gain.images == pytest.approx(196 * spread / 10)
    assert gain.half == pytest.approx(np.hypot(gain.seeds, gain.images))


def test_advice_names_the_simplest_of_the_best(tmp_path: Path) -> None:
    none, nfa, both = Augmentation(), Augmentation(PIXELS), Augmentation(PIXELS, "randaugment")
    policy = Augmentation("", "randaugment")
    found = {none: [50.0, 51.0, 50.5], nfa: [60.0, 61.0, 60.6], both: [60.2, 61.1, 60.4]}
    found[policy] = [55.0, 56.0, 55.5]
    comparison = Comparison(CompareConfig(rivals="randaugment"), cells_of(tmp_path, found))
    assert comparison.best() == nfa
    assert comparison.advice().startswith("Use NFA in pixels: +10")
    assert "against RandAugment" in comparison.advice()
    assert 'nfaug.fit("builtin:pixels"' in comparison.code()


def test_the_code_of_a_policy_after_nfa_makes_a_bank(tmp_path: Path) -> None:
    found = {row: [50.0, 51.0] for row in (Augmentation(), Augmentation(PIXELS))}
    found[Augmentation("", "randaugment")] = [50.0, 51.0]
    found[Augmentation(PIXELS, "randaugment")] = [70.0, 71.0]
    code = Comparison(CompareConfig(rivals="randaugment"), cells_of(tmp_path, found)).code()
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    names = {"nfaug": nfaug}
    names["train_set"] = TensorDataset(images, torch.arange(8) % 2)
    exec(code.replace("my-bank", str(tmp_path / "my-bank")), names)
    image, label = names["train_set"][5]
    assert (image.size, label, names["train_set"].p) == ((16, 16), 1, 0.5)


def test_advice_says_what_would_settle_it(tmp_path: Path) -> None:
    settings = CompareConfig(rivals="randaugment")

    def advised(nfa: list[float], images: int) -> Comparison:
        rows = settings.augmentations()
        found = {row: nfa if row == Augmentation(PIXELS) else [50.0, 50.0, 50.0] for row in rows}
        return Comparison(settings, cells_of(tmp_path / f"{nfa}-{images}", found, images))

    assert "--seeds" in advised([55.0, 50.0, 51.0], 20000).advice()
    assert "--test-data" in advised([55.0, 50.0, 51.0], 20).advice()
    lost = advised([40.0, 41.0, 42.0], 400)
    assert lost.best() is None
    assert "keep" in lost.advice()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"augment": "flop"}, "flop"),
        ({"rivals": "mixup"}, "mixup"),
        ({"weights": "x.safetensors"}, "--network"),
        ({"network": "resnet18", "weights": "x.pth"}, "safetensors"),
        ({"p": 0.0}, "p"),
        ({"minutes": 0.0}, "minutes"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        CompareConfig(**settings)


def test_spectrograms_have_masks_as_rivals_and_no_flips() -> None:
    rows = CompareConfig(augment="spectrogram", checkpoint=("my-flow",)).augmentations()
    assert {row.policy for row in rows} == {"", "specaugment"}
    assert [row.flow for row in rows if not row.policy] == ["", PIXELS, "my-flow"]
    rows = CompareConfig(rivals="randaugment").augmentations()
    assert [row.policy for row in rows] == ["", "randaugment", "", "randaugment"]
    image = torch.arange(0, 256, dtype=torch.uint8).view(1, 16, 16) // 2 * 2  # the mean is odd
    torch.manual_seed(0)
    changed = torch.stack([spec_augment(image) != image for _ in range(50)]).any(0)
    assert changed.all()
    assert (spec_augment(image) == image).any()


def test_safe_augmentations_keep_the_shape() -> None:
    for augment in ("crop", "flip", "rotate", "crop,flip,colour", ""):
        settings = CompareConfig(augment=augment)
        images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
        for policy in ("", "randaugment", "trivialaugment"):
            made = transform_of(settings.safe, policy, (16, 16))(images)
            assert (made.shape, made.dtype) == (images.shape, torch.uint8)


def test_labelled_and_validation_images_are_apart(images: TensorImages) -> None:
    pool, validation = split_images(images, None, 4)
    for part in (pool, validation):
        assert torch.bincount(part.targets).tolist() == [6, 6, 6]
    one, other = ({p.image(n).numpy().tobytes() for n in range(18)} for p in (pool, validation))
    assert one.isdisjoint(other)
    with pytest.raises(ValueError, match="12 images"):
        split_images(images, None, 12)
    alone = TensorImages(images.images, images.targets * 0, ("a",))
    with pytest.raises(ValueError, match="two classes"):
        split_images(alone, None, 4)
    others = TensorImages(images.images, images.targets, ("a", "b", "d"))
    with pytest.raises(ValueError, match="'d'"):
        split_images(images, others, 4)


@pytest.mark.parametrize(("network", "channels"), [("test_resnet", 1), ("test_vit", 3)])
def test_a_timm_model_is_fine_tuned(tmp_path: Path, network: str, channels: int) -> None:
    torch.manual_seed(0)
    weights, path = timm.create_model(network).state_dict(), str(tmp_path / "w.safetensors")
    save_file(weights, path)
    pixels = torch.randint(256, (8, channels, 64, 64), dtype=torch.uint8)
    settings = CompareConfig(network=network, weights=path, steps=2, device="cpu")
    model = Classifier(settings, pixels.shape[1:], 3, 0)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    name = [key for key in weights if key.endswith("weight")][2]
    assert torch.equal(before[name], weights[name])
    labels = torch.arange(8) % 3
    model.train(lambda rows: (pixels[rows], labels[rows]), len(labels))
    after = model.model.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert any(key.endswith("weight") for key in moved)
    assert not any("running" in key for key in moved)
    assert model.right(pixels, labels).shape == (8,)


@pytest.mark.parametrize("count", [2, 3, 8, 31, 32, 200])
def test_95_of_100_means_lie_in_the_interval(count: int) -> None:
    """Student's density, integrated over it."""
    freedom = count - 1
    half = student(count)
    x = np.linspace(-half, half, 100_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2) / math.sqrt(freedom * math.pi)
    inside = float((density * math.exp(log)).mean() * 2 * half)
    assert inside == pytest.approx(0.95, abs=5e-4)
