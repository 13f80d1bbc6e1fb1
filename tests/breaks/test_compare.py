"""Breaks of `nfaug compare`, and of the data that a comparison and a training recognise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from nfa_tools import NAMES, TensorImages, images_of, write_images
from PIL import Image
from safetensors.torch import save_file

from nfaug import open_dataset
from nfaug.cli import main
from nfaug.compare import CompareConfig, Comparison, compare
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.rows import PIXELS, Row
from nfaug.training import TrainConfig, train

TINY = CompareConfig(
    per_class=2, seeds=1, steps=1, variants=1, rows="none,randaugment,nfa,nfa+randaugment"
)


def images(count: int = 24, seed: int = 0, channels: int = 1) -> TensorImages:
    labels = torch.arange(count) % 3
    return TensorImages(images_of(labels, seed=seed, channels=channels), labels, NAMES)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `nfaug compare` in an empty folder, where it is refused, and returns the message."""
    monkeypatch.chdir(tmp_path)

    def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
        try:
            code = main(["compare", "--per-class", "2", "--seeds", "1", "--steps", "1", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("data", ["data", "data/train"])
@pytest.mark.parametrize("option", ["--data", "--test-data"])
def test_an_output_among_the_images(
    option: str,
    data: str,
    report: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Break 59: with --out inside --test-data, gains.png became a test image."""
    write_images(tmp_path / "data", 8, train=4, test=4)
    before = sorted(tmp_path.rglob("*"))
    others = {"--data": "digits", "--test-data": "digits", option: data}
    words = [word for name, value in others.items() for word in (name, value)]
    for out in (data, f"{data}/out"):
        said = report(capsys, *words, "--out", out)
        assert f"--out {out}" in said
        assert option in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["table.md", "cells.csv", "gains.png", "notes"])
def test_a_folder_that_holds_something_else(name: str, tmp_path: Path) -> None:
    """Break 59: a user's table.md was replaced."""
    file = tmp_path / "out" / name
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=name):
        compare(images(), config=TINY, out=file.parent, progress=False)
    assert [*tmp_path.glob("out/*")] == [file]
    assert file.read_text() == "mine"


def test_an_empty_folder_and_its_own(tmp_path: Path) -> None:
    """Break 59: the refusal leaves an empty folder, and that of the same comparison, usable."""
    (tmp_path / ".DS_Store").touch()
    first = compare(images(), config=TINY, out=tmp_path, progress=False)
    cells = (tmp_path / "cells.csv").read_bytes()
    (tmp_path / "notes").touch()
    assert compare(images(), config=TINY, out=tmp_path, progress=False).rows == first.rows
    assert (tmp_path / "cells.csv").read_bytes() == cells


@pytest.mark.parametrize("shared", [24, 1], ids=["all", "one"])
def test_test_images_that_are_trained_on(shared: int, tmp_path: Path) -> None:
    """Break 39: with the training images as test images, 100% was reported on noise."""
    ours = images()
    theirs = images(seed=1).images
    theirs[:shared] = ours.images[:shared]
    test = TensorImages(theirs, ours.targets, NAMES)
    everything = dataclasses.replace(TINY, per_class=None)
    with pytest.raises(ValueError, match=f"{shared} of {len(theirs)} .*image 0 of"):
        compare(ours, config=everything, out=tmp_path / "out", test_data=test, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_single_copy_among_many_test_images(tmp_path: Path) -> None:
    """Break 39: data sets that cannot be edited hold a few copies, which bring a warning."""
    ours = images()
    labels = torch.arange(300) % len(NAMES)
    theirs = images_of(labels, seed=1, channels=ours.channels)
    theirs[6] = ours.images[0]
    test = TensorImages(theirs, labels, NAMES)
    everything = dataclasses.replace(TINY, per_class=None)
    with pytest.warns(UserWarning, match="1 of 300"):
        compare(ours, config=everything, out=tmp_path / "out", test_data=test, progress=False)


def test_the_same_images_in_other_files(
    report: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break 39: the pixels count, neither names nor bytes of files."""
    write_images(tmp_path / "data", 8, train=2)
    for number, file in enumerate(sorted((tmp_path / "data").rglob("*.png"))):
        copy = tmp_path / "test" / file.parent.name / f"other-{number}.bmp"
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as picture:
            picture.save(copy)
    said = report(capsys, "--data", "data/train", "--test-data", "test")
    assert ".bmp" in said
    assert ".png" in said


def test_a_flow_needs_images_that_it_has_not_seen(tmp_path: Path) -> None:
    """Break 39: without --test-data, the flow may have been trained on the held-out images."""
    out = tmp_path / "out"
    for flows in (("builtin:rgb32",), (PIXELS, "builtin:rgb32")):
        with pytest.raises(ValueError, match="--test-data"):
            compare(
                images(channels=3),
                config=dataclasses.replace(TINY, checkpoint=flows),
                out=out,
                progress=False,
            )
    assert not out.exists()
    own = dataclasses.replace(TINY, checkpoint=(PIXELS,))  # it mixes the images themselves
    assert len(compare(images(channels=3), config=own, out=out, progress=False).rows) == 4


def test_other_weights_under_the_same_path(tmp_path: Path) -> None:
    """Break 39: another file of weights under the same path continued the same cells."""
    file = tmp_path / "weights.safetensors"
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, file)
    settings = dataclasses.replace(TINY, network="test_resnet", weights=str(file))
    compare(images(), config=settings, out=tmp_path / "out", progress=False)
    save_file({name: 2 * value for name, value in weights.items()}, file)
    with pytest.raises(ValueError, match="weights"):
        compare(images(), config=settings, out=tmp_path / "out", progress=False)


def cut_bits(text: str) -> str:
    return text[:-5] + "\n"


def cut_line(text: str) -> str:
    return text[: text.rindex(",")]


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (cut_bits, "line 2"),
        (cut_line, "line 2"),
        (lambda text: text.rstrip("\n"), "line 2"),
        (lambda text: text.replace(",100.0000,", ",30.0000,"), "line 2"),
        (lambda text: text.replace("accuracy,", ""), "columns"),
        (lambda text: text.rstrip("\n") + ",more\n", "line 2"),
        (lambda text: text.replace("none,0", "none,first"), "first"),
    ],
)
def test_damaged_cells(damage: Callable[[str], str], word: str, tmp_path: Path) -> None:
    """Break 61: a row whose last column was cut was read as 30%, where it had been 100%."""
    Cells(tmp_path, {}, 80).add("none", 0, torch.ones(80, dtype=torch.bool), 1.0)
    assert Cells(tmp_path, {}, 80)["none", 0].accuracy == 100
    file = tmp_path / "cells.csv"
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    with pytest.raises(ValueError, match=word) as caught:
        Cells(tmp_path, {}, 80)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", [",", "randaugment,", ",,", "randaugment trivialaugment"])
def test_lists_without_words(text: str) -> None:
    """Break 55: `--rivals ,`, now --rows, left no rival, and a gain ended in StopIteration."""
    with pytest.raises(ValueError, match="rows must"):
        CompareConfig(rows=text)
    with pytest.raises(ValueError, match="augment must"):
        CompareConfig(augment=text)


def test_blanks_stand_for_the_usual_rows(tmp_path: Path) -> None:
    """Break 55: the advice compares the best row with a rival, if there is one."""
    for rows in (" ", "none,nfa"):
        settings = CompareConfig(rows=rows, augment="")
        cells = Cells(tmp_path / rows, {}, 80)
        for row in settings.table():
            for seed in (0, 1, 2):
                right = torch.arange(80) < (80 if row == Row(PIXELS) else 8)
                cells.add(row.name, seed, right, 1.0)
        advice = Comparison(settings, cells).advice()
        assert "Use NFA" in advice
        assert ("against RandAugment" in advice) == (rows == " ")


def test_other_images_of_the_same_names_and_sizes(tiny_config: TrainConfig, tmp_path: Path) -> None:
    """Break 12: names and sizes, not content, told data of a training or a comparison apart."""
    folder = tmp_path / "images"
    for number, (image, label) in enumerate(images()):
        file = folder / NAMES[label] / f"{number // 3}.bmp"  # all have one size in bytes
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)
    run = tmp_path / "run"
    train(open_dataset(folder), config=tiny_config, out=run, progress=False)
    compare(open_dataset(folder), config=TINY, out=tmp_path / "out", progress=False)
    (folder / NAMES[0]).rename(folder / "other")
    (folder / NAMES[1]).rename(folder / NAMES[0])
    (folder / "other").rename(folder / NAMES[1])
    with pytest.raises(ValueError, match="--data"):
        train(open_dataset(folder), config=tiny_config, out=run, resume=True, progress=False)
    with pytest.raises(ValueError, match="images was"):
        compare(open_dataset(folder), config=TINY, out=tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("shape", "augment", "word"),
    [
        ((3, 16, 12), "rotate", "square"),
        ((2, 16, 16), "crop", "2 channels"),
        ((4, 16, 16), "rotate", "4 channels"),
        ((3, 7, 7), "rotate", "7 x 7"),
        ((1, 1, 1), "crop", "1 x 1"),
        ((1, 8, 64), "crop", "8 x 64"),
    ],
)
def test_images_that_an_augmentation_cannot_take(
    shape: tuple[int, int, int], augment: str, word: str, tmp_path: Path
) -> None:
    """Break 56: errors in the middle of a comparison. They come before anything is written."""
    data = torch.utils.data.TensorDataset(
        torch.zeros(12, *shape, dtype=torch.uint8), torch.arange(12) % 2
    )
    settings = CompareConfig(per_class=2, augment=augment, seeds=1, steps=1)
    with pytest.raises(ValueError, match=word):
        compare(data, config=settings, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_new_head_does_not_distort_pretrained_features(tmp_path: Path) -> None:
    """Break 77: under a head of large random weights, fine-tuning fell to chance."""
    network = "test_efficientnet"
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model(network).state_dict(), weights)
    settings = CompareConfig(network=network, weights=str(weights), steps=1, device="cpu")
    classifier = Classifier(settings, (3, 32, 32), 20, seed=0)
    classifier.model.eval()
    logits = classifier.model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 20)
    assert not logits.any(), "each class is as likely as the others"


def test_a_comparison_that_goes_on_with_other_rows_draws_them(tmp_path: Path) -> None:
    """Break 78: the picture of variants stayed that of the first call's rows."""
    first = dataclasses.replace(TINY, rows="none,nfa")
    other = dataclasses.replace(TINY, rows="none,randaugment")
    for out, settings in (("same", first), ("same", other), ("new", other)):
        compare(images(), config=settings, out=tmp_path / out, progress=False)
    picture = (tmp_path / "same" / "variants.png").read_bytes()
    assert picture == (tmp_path / "new" / "variants.png").read_bytes()
