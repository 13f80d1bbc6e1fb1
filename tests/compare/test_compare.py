"""nfaug.compare: cells, gains, going on, networks."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tools.nfa import TensorImages, images_of

import nfaug
from nfaug.compare import CompareConfig, Comparison, compare, spec_augment, transform_of
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell, gain_of
from nfaug.compare.images import at_most, open_parts, read_images
from nfaug.compare.methods import PIXELS, Method
from nfaug.compare.work import Work
from nfaug.data import source
from nfaug.io import progress

TINY = CompareConfig(per_class=4, seeds=3, steps=3, variants=2, device="cpu")
METHODS = {"none", "randaugment", "mixup", "nfa:builtin:pixels", "nfa:builtin:pixels+randaugment"}


@pytest.fixture(scope="module")
def images() -> TensorImages:
    """Three classes of 24 gray images, 8 x 8, told apart by their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(72) % 3
    pixels = (
        torch.randint(60, (72, 1, 8, 8), generator=generator) + 90 * labels[:, None, None, None]
    )
    return TensorImages(pixels.clamp(max=255).byte(), labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def whole(
    images: TensorImages, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Path]:
    """A comparison that nothing interrupted, and its folder. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    return compare(images, config=TINY, out=folder, progress=False), folder


def test_settings_of_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "[]", "{"):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=r"settings\.json"):
            Cells(tmp_path, {"steps": 3}, 400)


@pytest.mark.parametrize(
    ("network", "pretrained", "lr", "rate"),
    [
        ("small-cnn", False, None, 0.1),
        ("resnet18", False, None, 1e-3),
        ("resnet18", True, None, 6e-4),
        ("resnet18", True, 0.2, 0.2),
    ],
)
def test_the_learning_rate_is_that_of_the_network(
    network: str, pretrained: bool, lr: float | None, rate: float, tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    config = CompareConfig(network=network, weights=str(weights) if pretrained else None, lr=lr)
    assert config.learning_rate == rate


def test_cells_of_another_learning_rate_do_not_count(
    whole: tuple[Comparison, Path], images: TensorImages, tmp_path: Path
) -> None:
    """They may be those of another version, with another default."""
    settings = json.loads((whole[1] / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"lr": None}))
    with pytest.raises(ValueError, match="lr was None"):
        compare(images, config=TINY, out=tmp_path, progress=False)


def test_every_classifier_is_a_line_of_the_csv_file(whole: tuple[Comparison, Path]) -> None:
    found, folder = whole
    lines = list(csv.DictReader((folder / "cells.csv").read_text().splitlines()))
    assert {line["augmentation"] for line in lines} == METHODS
    assert len(lines) == 3 * len(found.methods) == 15
    assert found.seeds == [0, 1, 2]
    assert found.advice() in (folder / "table.md").read_text()
    assert (folder / "gains.png").stat().st_size > 1000


@pytest.mark.parametrize("when", [2, 5, 8])
def test_the_same_call_goes_on_after_a_kill(
    when: int,
    images: TensorImages,
    whole: tuple[Comparison, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first seed or after it; nothing is trained twice."""
    trained: list[int] = []
    train = Classifier.train

    def killed(self: Classifier, *args: Any, **options: Any) -> None:
        trained.append(self.seed)
        if len(trained) == when:
            raise KeyboardInterrupt
        train(self, *args, **options)

    monkeypatch.setattr(Classifier, "train", killed)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt, match=f"{when - 1} classifiers .* same command"):
        compare(images, config=TINY, out=out, progress=False)
    if when > 5:
        assert " 3 steps; 1 seeds, " in (out / "table.md").read_text()
    else:
        assert not (out / "table.md").exists()
    resumed = compare(images, config=TINY, out=out, progress=False)
    assert len(trained) == 16  # one was interrupted
    assert resumed.methods == whole[0].methods
    for method in resumed.methods:
        assert resumed.accuracy(method) == whole[0].accuracy(method)
    assert without_seconds(out) == without_seconds(whole[1])
    assert resumed.advice() == whole[0].advice()


def without_seconds(folder: Path) -> list[tuple[str, ...]]:
    """The lines of cells.csv but for the time that they took."""
    lines = csv.DictReader((folder / "cells.csv").read_text().splitlines())
    return [tuple(value for name, value in line.items() if name != "seconds") for line in lines]


def test_a_finished_comparison_is_shown_again_and_goes_on_with_more_seeds(
    images: TensorImages,
    whole: tuple[Comparison, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later look asks for more; fewer seeds than were asked for are another comparison."""
    for name in ("settings.json", "cells.csv", "table.md"):
        (tmp_path / name).write_bytes((whole[1] / name).read_bytes())
    train = Classifier.train
    trained: list[int] = []

    def counted(self: Classifier, *args: Any, **options: Any) -> None:
        trained.append(self.seed)
        train(self, *args, **options)

    monkeypatch.setattr(Classifier, "train", counted)
    again = compare(images, config=TINY, out=tmp_path, progress=False)
    assert not trained
    assert again.text() == whole[0].text()
    more = compare(images, config=replace(TINY, seeds=4), out=tmp_path, progress=False)
    assert trained == [3] * 5
    assert more.seeds == [0, 1, 2, 3]
    assert "for 2 looks at these results" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "settings.json").read_text())["seeds"] == [3, 4]
    with pytest.raises(ValueError, match="of 4 seeds, and seeds is 3"):
        compare(images, config=TINY, out=tmp_path, progress=False)


def test_the_bar_ends_whole(
    images: TensorImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It also ends if nothing is left to train: its thread drew it as long as Python ran."""
    monkeypatch.setattr(progress, "_FIRST", 0.01)
    config = replace(TINY, methods="none,nfa")
    compare(images, config=config, out=tmp_path, progress=True)
    drawn = [line for line in capsys.readouterr().err.splitlines() if line.startswith("3 seeds:")]
    assert "100%" in drawn[-1]
    assert "6/6" in drawn[-1]
    compare(images, config=config, out=tmp_path, progress=True)
    for thread in threading.enumerate():
        if "_draw" in thread.name:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("looks", ["3", [3, 2], ["3"], [0], [True], [10**30], None, {}])
def test_damaged_looks(
    looks: Any, images: TensorImages, whole: tuple[Comparison, Path], tmp_path: Path
) -> None:
    """Break 100: what a comparison reads back is checked as what a user passes."""
    saved = json.loads((whole[1] / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(saved | {"seeds": looks}))
    with pytest.raises(ValueError, match=r"settings\.json.*seeds"):
        compare(images, config=TINY, out=tmp_path, progress=False)


def test_a_full_disk_leaves_the_last_table(
    images: TensorImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Cells.add_all
    count = 0

    def full(self: Cells, cells: Any) -> None:
        nonlocal count
        count += 1
        if count > 7:
            raise OSError(28, "No space left on device")
        write(self, cells)

    with monkeypatch.context() as patched:
        patched.setattr(Cells, "add_all", full)
        with pytest.raises(OSError, match="No space"):
            compare(images, config=TINY, out=tmp_path / "out", progress=False)
    assert " 3 steps; 1 seeds, " in (tmp_path / "out" / "table.md").read_text()
    assert compare(images, config=TINY, out=tmp_path / "out", progress=False).seeds == [0, 1, 2]


def test_a_folder_of_an_earlier_version(images: TensorImages, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"rows": ["none"], "per_class": 4}))
    with pytest.raises(ValueError, match=r"of another version of nfaug.* another --out"):
        compare(images, config=TINY, out=tmp_path, progress=False)


@pytest.mark.parametrize(("name", "word"), [("rows", "methods"), ("minutes", "seeds")])
def test_settings_of_an_earlier_version(
    name: str, word: str, whole: tuple[Comparison, Path]
) -> None:
    with pytest.raises(TypeError, match=f"{name}.*{word}"):
        CompareConfig(**{name: 5})
    with pytest.raises(TypeError, match=f"{name}.*{word}"):
        replace(TINY, **{name: "none"})
    with pytest.raises(AttributeError, match=r"comparison\.methods"):
        print(whole[0].rows)


def test_other_settings_or_images_need_another_folder(
    images: TensorImages, whole: tuple[Comparison, Path], tmp_path: Path
) -> None:
    for name in ("settings.json", "cells.csv"):
        (tmp_path / name).write_bytes((whole[1] / name).read_bytes())
    with pytest.raises(ValueError, match="variants"):
        compare(images, config=replace(TINY, variants=3), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="methods"):
        compare(images, config=replace(TINY, methods="none,nfa"), out=tmp_path, progress=False)
    others = TensorImages(255 - images.images, images.targets, images.classes)
    with pytest.raises(ValueError, match="images"):
        compare(others, config=TINY, out=tmp_path, progress=False)


def test_a_typo_leaves_nothing_behind(images: TensorImages, tmp_path: Path) -> None:
    test = TensorImages(255 - images.images, images.targets, images.classes)
    for change in ({"network": "resnet81"}, {"checkpoint": ("builtin:rgb32",)}):
        settings = replace(TINY, **change)
        with pytest.raises(ValueError, match=r"resnet81|3 channels"):
            compare(images, config=settings, out=tmp_path / "new", test_data=test, progress=False)
    larger = TensorImages(images.images.repeat(1, 1, 2, 2), images.targets, images.classes)
    with pytest.raises(ValueError, match="16, 16"):
        compare(images, config=TINY, out=tmp_path / "new", test_data=larger, progress=False)
    others = TensorImages(images.images, images.targets, ("a", "b", "d"))
    with pytest.raises(ValueError, match="a, b, d"):
        compare(images, config=TINY, out=tmp_path / "new", test_data=others, progress=False)
    assert not (tmp_path / "new").exists()


def test_gains_have_one_interval_over_seeds_and_images() -> None:
    ours = [Cell(np.arange(100) < right, 0.0) for right in (60, 62, 61)]
    others = [Cell(np.arange(100) < right, 0.0) for right in (50, 56, 53)]
    gain = gain_of(ours, others)
    assert gain.mean == pytest.approx(8)
    seeds = 4.3027 * np.std([10, 6, 8], ddof=1) / 3**0.5
    assert gain.half_of_seeds == pytest.approx(seeds, rel=1e-4)
    assert gain.half == pytest.approx(np.hypot(gain.half_of_seeds, gain.half_of_images))
    assert "±" in str(gain)
    assert str(gain_of(ours[:2], others[:2])) == "+8.0"  # an interval of two says nothing


def test_the_error_of_images_has_no_noise_of_answers_in_it() -> None:
    """Images that differ in nothing but noise make no error of their own; others do."""
    random = np.random.default_rng(0)
    found = {}
    for liking in (0.0, 0.3):
        kinds = liking * np.sign(random.standard_normal(2_000))
        cells = []
        for _ in range(4):
            cells.append(Cell(random.random(2_000) < 0.5 + kinds, 0.0))
        others = [Cell(random.random(2_000) < 0.5, 0.0) for _ in range(4)]
        found[liking] = gain_of(cells, others).image_error
    assert found[0.0] < 0.3
    assert found[0.3] == pytest.approx(100 * 0.3 / 2_000**0.5, rel=0.2)


@pytest.mark.parametrize(("seeds", "luck"), [(3, 0.0), (5, 0.05)])
def test_95_of_100_intervals_hold_the_true_gain(seeds: int, luck: float) -> None:
    """Rows that differ by luck in a seed, by what an image likes, and by noise."""
    random = np.random.default_rng(seeds)
    inside = []
    for _ in range(400):
        liking = 0.1 * random.standard_normal(200)
        ours = []
        others = []
        for _ in range(seeds):
            chance = 0.5 + luck * random.standard_normal() + liking
            ours.append(Cell(random.random(200) < chance, 0.0))
            others.append(Cell(random.random(200) < 0.5, 0.0))
        gain = gain_of(ours, others)
        inside.append(abs(gain.mean) <= gain.half)
    assert 0.92 < np.mean(inside) < 0.98


def test_clusters_of_one_image_each_are_none() -> None:
    """The error is then that of a two-way analysis of variance: (var_i - noise^2 / n) / N."""
    random = np.random.default_rng(3)
    liking = 0.3 * random.standard_normal(50)
    ours = [Cell(random.random(50) < 0.6 + liking, 0.0) for _ in range(4)]
    others = [Cell(random.random(50) < 0.5, 0.0) for _ in range(4)]
    pairs = zip(ours, others, strict=True)
    changes = np.stack([one.right.astype(float) - other.right for one, other in pairs])
    noise = changes - changes.mean(0) - changes.mean(1, keepdims=True) + changes.mean()
    square = changes.mean(0).var() - np.square(noise).sum() / (3 * 49) / 4
    gain = gain_of(ours, others)
    assert gain.image_error == pytest.approx(100 * (square / 50) ** 0.5, rel=1e-9)
    named = gain_of(ours, others, [f"image {number}" for number in range(50)])
    assert tuple(named) == pytest.approx(tuple(gain), rel=1e-9)
    assert gain_of(ours, others, ["all"] * 50).half == math.inf, "one cluster says nothing"
    with pytest.raises(ValueError, match="length"):
        gain_of(ours, others, range(49))


def clustered(
    random: np.random.Generator, sizes: Sequence[int], seeds: int, noise: float
) -> tuple[list[Cell], list[Cell], list[int]]:
    """Cells whose images are liked by clusters: for all seeds by 0.15, in a seed by `noise`."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    liking = 0.15 * random.standard_normal(len(sizes))
    ours = []
    others = []
    for _ in range(seeds):
        in_seed = liking + noise * random.standard_normal(len(sizes))
        ours.append(Cell(random.random(len(clusters)) < 0.5 + in_seed[clusters], 0.0))
        others.append(Cell(random.random(len(clusters)) < 0.5, 0.0))
    return ours, others, clusters.tolist()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_error_of_clusters_is_that_of_other_clusters(noise: float) -> None:
    """Also where a seed likes whole clusters: that is in the error over seeds already."""
    random = np.random.default_rng(1)
    sizes = [5, 10, 15, 20, 30] * 4
    squares = []
    by_image = []
    for _ in range(200):
        ours, others, clusters = clustered(random, sizes, 4, noise)
        squares.append(gain_of(ours, others, clusters).image_error ** 2)
        by_image.append(gain_of(ours, others).image_error ** 2)
    true = 100 * 0.15 * np.square(sizes).sum() ** 0.5 / sum(sizes)
    assert np.mean(squares) ** 0.5 == pytest.approx(true, rel=0.05)
    assert np.mean(by_image) ** 0.5 < 0.4 * true


def test_95_of_100_intervals_over_clusters_hold_the_true_gain() -> None:
    random = np.random.default_rng(2)
    inside = []
    of_images = []
    for _ in range(400):
        ours, others, clusters = clustered(random, [10, 20, 30] * 4, 5, 0.05)
        for names, found in ((clusters, inside), (None, of_images)):
            gain = gain_of(ours, others, names)
            found.append(abs(gain.mean) <= gain.half)
    assert 0.92 < np.mean(inside) < 0.98
    assert np.mean(of_images) < 0.75


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"augment": "flop"}, "flop"),
        ({"methods": "cutmix"}, "cutmix"),
        ({"weights": "x.safetensors"}, "--network"),
        ({"network": "resnet18", "weights": "x.pth"}, "safetensors"),
        ({"methods": "frozen,none"}, "--weights"),
        ({"p": 0.0}, "p"),
        ({"augment": "spectrogram,flip"}, "another sound"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        CompareConfig(**settings)


def test_the_usual_methods() -> None:
    names = [method.name for method in CompareConfig().table()]
    assert names == ["none", "randaugment", "mixup", f"nfa:{PIXELS}", f"nfa:{PIXELS}+randaugment"]
    methods = CompareConfig(methods="nfa,none,trivialaugment").table()
    assert [method.name for method in methods] == ["none", "trivialaugment", f"nfa:{PIXELS}"]


def test_spectrograms_have_masks_as_rivals_and_no_flips() -> None:
    methods = CompareConfig(augment="spectrogram", checkpoint=("my-flow",)).table()
    assert {method.policy for method in methods} == {"", "specaugment", "mixup"}
    assert [one.flow for one in methods if not one.policy] == ["", PIXELS, "my-flow"]
    image = torch.arange(0, 256, dtype=torch.uint8).view(1, 16, 16) // 2 * 2  # the mean is odd
    torch.manual_seed(0)
    changed = torch.stack([spec_augment(image) != image for _ in range(50)]).any(0)
    assert changed.all()
    assert (spec_augment(image) == image).any()
    for plain in (torch.full((1, 16, 16), 0.6), torch.full((1, 16, 16), 99, dtype=torch.uint8)):
        assert torch.allclose(spec_augment(plain), plain), "the mean of an image of one value"


def test_safe_augmentations_keep_the_shape() -> None:
    for augment in ("crop", "flip", "rotate", "crop,flip,color", ""):
        settings = CompareConfig(augment=augment)
        images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
        for policy in ("", "randaugment", "trivialaugment", "mixup"):
            made = transform_of(settings.safe, policy, (16, 16))(images)
            assert (made.shape, made.dtype) == (images.shape, torch.uint8)


def test_mixup_mixes_what_is_trained_on(
    images: TensorImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and labels are weighted means of two, with one weight a batch."""
    drawn = []

    def train(_: Classifier, draw: Any, count: int, after_step: Any) -> None:
        drawn.append(draw(torch.arange(count)))
        after_step(torch.zeros(()))

    monkeypatch.setattr(Classifier, "train", train)
    data = read_images(images, config=TINY)
    Work(data, replace(TINY, augment=""), bool).trained([Method(policy="mixup")], 0)
    (batch, targets) = drawn[0]
    assert targets.shape == (12, 3)
    assert torch.allclose(targets.sum(1), torch.ones(12))
    weight = float(targets.max(1).values.min())
    assert 0 < weight < 1
    known = data.labelled(4, 0).images.float()
    assert torch.allclose(batch, weight * known + (1 - weight) * known.roll(1, 0), atol=1e-3) or (
        torch.allclose(batch, (1 - weight) * known + weight * known.roll(1, 0), atol=1e-3)
    )


def test_what_training_left_of_the_loss(images: TensorImages) -> None:
    """The mean of the last tenth of the steps, over that of a guess."""
    data = read_images(images, config=TINY)
    short, long = (
        Work(data, replace(TINY, steps=steps), bool).trained([Method()], 0)[0].left
        for steps in (1, 60)
    )
    assert 0.5 < short < 2
    assert long < 0.5 * short


def test_a_classifier_takes_the_steps_of_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """With settings at their defaults, and not one step."""
    monkeypatch.setattr("nfaug.compare.classifier.default_steps", lambda _, count: count)
    labels = torch.arange(7) % 2
    pixels = images_of(labels)
    losses: list[torch.Tensor] = []
    classifier = Classifier(CompareConfig(device="cpu"), pixels.shape[1:], 2, seed=0)
    classifier.train(lambda rows: (pixels[rows], labels[rows]), 7, losses.append)
    assert len(losses) == 7


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
    losses: list[torch.Tensor] = []
    model.train(lambda rows: (pixels[rows], labels[rows]), len(labels), losses.append)
    assert len(losses) == 2
    after = model.model.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert any(key.endswith("weight") for key in moved)
    assert not any("running" in key for key in moved)
    assert model.right(pixels, labels).shape == (8,)


@pytest.mark.parametrize("side", [32, 160])
def test_frozen_features_beside_fine_tuning(side: int, tmp_path: Path) -> None:
    """At another size than the network's own, titles say both sizes."""
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    labels = torch.arange(120) % 3
    noise = torch.rand(120, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (255 * torch.nn.functional.interpolate(noise, (side, side))).byte()
    data = TensorImages(pixels, labels, ("a", "b", "c"))
    config = replace(TINY, network="test_resnet", weights=str(file), methods="frozen,none,nfa")
    found = compare(data, config=config, out=tmp_path / "out", progress=False)
    assert [method.frozen for method in found.methods] == [True, False, False]
    assert f"{side} x {side} pixels" in found.text()
    for method in found.methods:
        assert ("frozen" in found.title(method)) == method.frozen
        own = 160 if method.frozen else side
        assert (f"at {own} x {own} pixels" in found.title(method)) == (side == 32)


@pytest.mark.parametrize(
    ("network", "stored", "side"),
    [("small-cnn", 128, 48), ("small-cnn", 28, 28), ("resnet18", 128, 96), ("resnet18", 4, 8)],
)
def test_the_size_depends_on_the_data_and_the_network(network: str, stored: int, side: int) -> None:
    labels = torch.arange(6) % 2
    data = nfaug.open_dataset(
        TensorImages(images_of(labels, size=(stored, stored)), labels, ("a", "b"))
    )
    assert at_most(data, CompareConfig(network=network)).image_size == (side, side)


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(64) % 2
    for number, image in enumerate(images_of(labels, size=(16, 16))):
        file = tmp_path / "data" / "ab"[labels[number]] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    opened = []
    decode = source.decode_image
    monkeypatch.setattr(
        source, "decode_image", lambda data, name: (opened.append(name), decode(data, name))[1]
    )
    config = replace(TINY, methods="none,nfa", seeds=3)
    data, _ = open_parts(tmp_path / "data")
    data = at_most(data, config)
    compare(data, config=config, out=tmp_path / "out", progress=False)
    assert len(set(opened)) == len(opened) == 64
