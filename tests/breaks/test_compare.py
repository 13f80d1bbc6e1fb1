"""Breaks of `nfaug compare`, and of the data that a comparison and a training recognise."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tools.nfa import NAMES, TensorImages, images_of, write_images

from nfaug import open_dataset
from nfaug.cli import main
from nfaug.compare import CompareConfig, compare, read_images
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.methods import PIXELS
from nfaug.training import TrainConfig, train

ROOT = Path(__file__).resolve().parents[2]
TINY = CompareConfig(
    per_class=2,
    seeds=3,
    steps=1,
    variants=1,
    methods="none,randaugment,nfa,nfa+randaugment",
    device="cpu",
)


def images(count: int = 72, seed: int = 0, channels: int = 1) -> TensorImages:
    labels = torch.arange(count) % 3
    return TensorImages(images_of(labels, seed=seed, channels=channels), labels, NAMES)


def noise_images(folder: Path, names: tuple[str, ...] = NAMES, *, seed: int, count: int) -> Path:
    """Write images of noise, which a classifier can learn by heart alone; return the folder."""
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(256, size=(12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")
    return folder


@contextlib.contextmanager
def stopped_after(trainings: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C in the block after so many trainings."""
    train_classifier = Classifier.train
    count = 0

    def counted(self: Classifier, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count > trainings:
            raise KeyboardInterrupt
        train_classifier(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "train", counted)
        with pytest.raises(KeyboardInterrupt):
            yield


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


def test_an_empty_folder_and_other_files(tmp_path: Path) -> None:
    """Break 59: an empty folder is usable, and what a user adds to it stays."""
    (tmp_path / ".DS_Store").touch()
    compare(images(), config=TINY, out=tmp_path, progress=False)
    (tmp_path / "notes").touch()
    compare(images(), config=TINY, out=tmp_path, progress=False)
    assert (tmp_path / "notes").exists()


@pytest.mark.parametrize(
    "changes", [{"methods": "none,nfa"}, {"methods": "none,randaugment"}, {"seeds": 2}]
)
def test_a_second_look(changes: dict[str, Any], tmp_path: Path) -> None:
    """Breaks 78 and 85: other methods in the same folder counted as the first look at the results.

    So would fewer seeds, chosen after a look at more of them.
    """
    compare(images(), config=TINY, out=tmp_path, progress=False)
    other = dataclasses.replace(TINY, **changes)
    with contextlib.ExitStack() as few:
        if other.seeds < 3:
            few.enter_context(pytest.warns(UserWarning, match="seeds is 2"))
        with pytest.raises(ValueError, match="another --out"):
            compare(images(), config=other, out=tmp_path, progress=False)


def test_a_look_with_more_seeds_asks_for_more(tmp_path: Path) -> None:
    """Break 85: more seeds until a gain is significant found one where there is none."""
    compare(images(), config=TINY, out=tmp_path, progress=False)
    more = dataclasses.replace(TINY, seeds=4)
    found = compare(images(), config=more, out=tmp_path, progress=False)
    assert "for 2 looks at these results" in found.text()


@pytest.mark.parametrize("changes", [{"methods": "none,nfa"}, {"p": 0.25}])
def test_other_settings_do_not_go_on(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks 83 and 85: a comparison went on with other methods or settings."""
    with stopped_after(5, monkeypatch):
        compare(images(), config=TINY, out=tmp_path, progress=False)
    other = dataclasses.replace(TINY, **changes)
    with pytest.raises(ValueError, match="--out"):
        compare(images(), config=other, out=tmp_path, progress=False)
    assert compare(images(), config=TINY, out=tmp_path, progress=False).seeds == [0, 1, 2]


def test_the_test_images_depend_on_the_data_alone() -> None:
    """Break 83: which were the test images depended on the number of seeds, and on --per-class."""
    configs = [TINY]
    for name, value in (("seeds", 9), ("methods", "none"), ("per_class", 5), ("steps", 9)):
        configs.append(dataclasses.replace(TINY, **{name: value}))
    data = images(300)
    found = {tuple(read_images(data, config=config).names) for config in configs}
    assert len(found) == 1
    assert len(found.pop()) == 150


@pytest.mark.parametrize("number", range(0, 72, 7))
def test_changed_images_do_not_go_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 84: of images under the same names, 1,024 were compared; the others could change."""
    config = dataclasses.replace(TINY, per_class=None)
    with stopped_after(2, monkeypatch):
        compare(images(), config=config, out=tmp_path, progress=False)
    changed = images().images.clone()
    changed[number, 0, 3, 3] ^= 1
    others = TensorImages(changed, images().targets, NAMES)
    with pytest.raises(ValueError, match="images was"):
        compare(others, config=config, out=tmp_path, progress=False)


def test_few_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 85: with ten test images, advice was wrong in 10% of comparisons.

    With 8 images a class it trained for a minute, and then tested on a few without a word.
    """
    with (
        stopped_after(0, monkeypatch),
        pytest.warns(UserWarning, match="12 test images, and advice needs 30"),
    ):
        compare(images(24), config=TINY, out=tmp_path, progress=False)
    assert not (tmp_path / "cells.csv").exists(), "it is said before the first training"
    with pytest.warns(UserWarning, match="without advice"):
        found = compare(images(24), config=TINY, out=tmp_path, progress=False)
    assert found.advice().startswith("No advice")
    with pytest.warns(UserWarning, match="seeds is 2"):
        compare(
            images(), config=dataclasses.replace(TINY, seeds=2), out=tmp_path / "2", progress=False
        )


def test_test_images_that_are_trained_on(tmp_path: Path) -> None:
    """Break 39: with the training images as test images, 100% was reported on noise."""
    ours = images()
    with pytest.raises(ValueError, match=r"72 of 72 images .*image 0 of .* Nothing is left"):
        compare(ours, config=TINY, out=tmp_path / "out", test_data=ours, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shared", [1, 24])
def test_copies_of_test_images_leave_the_pool(shared: int, tmp_path: Path) -> None:
    """Break 39: data sets that cannot be edited hold copies. No method of any seed has them."""
    ours = images()
    theirs = images(seed=1)
    theirs.images[:shared] = ours.images[:shared]
    config = dataclasses.replace(TINY, per_class=None)
    with pytest.warns(UserWarning, match=f"{shared} of 72 images to train on"):
        data = read_images(ours, theirs, config=config)
    assert len(data.pool.labels) == 72 - shared
    assert len(data.test.labels) == 72
    known = {image.numpy().tobytes() for image in data.test.images}
    assert known.isdisjoint(image.numpy().tobytes() for image in data.pool.images)
    assert any("are left out" in note for note in data.notes)


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
    assert len(compare(images(channels=3), config=own, out=out, progress=False).methods) == 4


def test_other_weights_under_the_same_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 39: another file of weights under the same path continued the same cells."""
    file = tmp_path / "weights.safetensors"
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, file)
    settings = dataclasses.replace(TINY, network="test_resnet", weights=str(file))
    with stopped_after(2, monkeypatch):
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
        (lambda text: text.replace(",100.0000,", ",30.0000,"), "line 2"),
        (lambda text: text.replace("accuracy,", ""), "columns"),
        (lambda text: text.rstrip("\n") + ",more\n", "line 2"),
        (lambda text: text.replace("none,0", "none,first"), "first"),
        (lambda text: text.replace("none", "n" * 200_000), "no table"),
    ],
)
def test_damaged_cells(damage: Callable[[str], str], word: str, tmp_path: Path) -> None:
    """Break 61: a row whose last column was cut was read as 30%, where it had been 100%.

    Break 100: a long field ended in an error of the module csv.
    """
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
    """Break 55: `--rivals ,`, now --methods, left no rival, and a gain ended in StopIteration."""
    with pytest.raises(ValueError, match="methods must"):
        CompareConfig(methods=text)
    with pytest.raises(ValueError, match="augment must"):
        CompareConfig(augment=text)


def test_blanks_stand_for_the_usual_methods(tmp_path: Path) -> None:
    """Break 55: `--rivals ,`, now --methods, left no rival, and a gain ended in StopIteration."""
    assert CompareConfig(methods=" ").table() == CompareConfig().table()
    alone = dataclasses.replace(TINY, methods="none,nfa", augment="")
    found = compare(images(), config=alone, out=tmp_path, progress=False)
    assert "| RandAugment" not in found.text()
    assert found.advice()


def test_other_images_of_the_same_names_and_sizes(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 12: names and sizes, not content, told data of a training or a comparison apart."""
    folder = tmp_path / "images"
    for number, (image, label) in enumerate(images()):
        file = folder / NAMES[label] / f"{number // 3}.bmp"  # all have one size in bytes
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)
    run = tmp_path / "run"
    train(open_dataset(folder), config=tiny_config, out=run, progress=False)
    with stopped_after(1, monkeypatch):
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
    settings = CompareConfig(per_class=2, augment=augment, steps=1, device="cpu")
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


LARGE = {"steps": 10**30, "seeds": 10**9, "lr": 1e308, "per_class": 10**12}


@pytest.mark.parametrize("name", LARGE)
def test_numbers_that_cannot_be_meant(name: str) -> None:
    """Breaks 100 and 102: with a billion seeds nothing started; a large rate was a raw error."""
    with pytest.raises(ValueError, match=f"{name} must be"):
        CompareConfig(**{name: LARGE[name]})


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Runs `nfaug compare --json`, then the example that it names; returns what both print."""

    def run(folder: Path, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "nfaug", "compare", "--json", *words, "--out", "out"]
        command += ["--methods", "none,nfa", "--seeds", "3", "--steps", "60", "--processes", "1"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        found: dict[str, Any] = json.loads(ran.stdout)
        example = found["example"].replace("examples/", f"{ROOT / 'examples'}/", 1)
        ran = subprocess.run(
            example.replace("python", shlex.quote(sys.executable), 1),
            cwd=folder,
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        rows = csv.DictReader((folder / "out" / "cells.csv").read_text().splitlines())
        found["cells"] = {(row["augmentation"], row["seed"]): row["accuracy"] for row in rows}
        found["printed"] = ran.stdout
        return found

    return run


@pytest.mark.parametrize("how", ["splits", "held out", "test data"])
def test_the_example_tests_as_the_table_does(
    how: str, tmp_path: Path, printed: Callable[..., dict[str, Any]]
) -> None:
    """Breaks 79, 80 and 81: on noise the script printed 100%, or another figure than the table.

    It tested on the images that it trained on, forgot which of them belonged together, and numbered
    the classes of a test folder that lacked one anew.
    """
    words = ["--data", "data", "--per-class", "6"]
    if how == "splits":
        noise_images(tmp_path / "data" / "train", seed=0, count=12)
        noise_images(tmp_path / "data" / "test", NAMES[1:], seed=1, count=20)
    elif how == "held out":
        noise_images(tmp_path / "data", seed=0, count=24)
    else:
        noise_images(tmp_path / "data", seed=0, count=12)
        noise_images(tmp_path / "other", seed=1, count=20)
        words += ["--test-data", "other"]
    found = printed(tmp_path, *words)
    accuracy = float(found["cells"]["none", "0"])
    assert accuracy < 70
    count = {"splits": 40, "held out": 36, "test data": 60}[how]
    assert f"accuracy on {count} images: {accuracy:.1f}% with nothing more" in found["printed"]


def test_a_path_is_no_code(tmp_path: Path, printed: Callable[..., dict[str, Any]]) -> None:
    """Break 95: a file of this name ran as code in the script that was printed."""
    name = """digits"); open("PWNED", "w"); print("$(touch PWNED);'x.npz"""
    random = np.random.default_rng(0)
    images_of_file = random.integers(256, size=(80, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / name, images=images_of_file, labels=np.arange(80) % 2)
    found = printed(tmp_path, "--data", name, "--per-class", "5")
    assert "accuracy on 40 images" in found["printed"]
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_an_interruption_leaves_no_process(how: str, tmp_path: Path) -> None:
    """Break 99: after SIGKILL, decoded images stayed in the temporary folder."""
    write_images(tmp_path / "data", 16, train=24)
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "nfaug", "compare", "--data", "data", "--out", "out"]
    command += ["--per-class", "4", "--steps", "40", "--seeds", "500", "--processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stderr=said,
            env=environment,
            start_new_session=True,
        )
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while not (out / "table.md").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = children.read_text().split() if children.exists() else []
    if how == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    else:
        process.kill()
    code = process.wait(timeout=60)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    if how == "SIGINT":
        assert code == 130, text
        assert "the same command goes on" in text
        assert not (out / ".images").exists()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in started):
        time.sleep(0.1)
    assert started
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "temporary").rglob("*.npy"))
    table = (out / "table.md").read_text()
    assert table.startswith("No advice: training was too short.") or "no advice yet" in table
    cells = (out / "cells.csv").read_text().splitlines()
    assert len(cells) > 5
    # The next run replaces what a killed one left, and removes it.
    with (tmp_path / "again").open("w") as said:
        again = subprocess.Popen(command, cwd=tmp_path, stderr=said, env=environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and again.poll() is None:
        if len((out / "cells.csv").read_text().splitlines()) > len(cells):
            break
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    assert again.wait(timeout=60) == 130, (tmp_path / "again").read_text()
    assert not (out / ".images").exists()
    assert (out / "cells.csv").read_text().startswith("\n".join(cells))


def test_processes_that_are_not_needed_end_without_a_word(tmp_path: Path) -> None:
    """Break 110: a second process that started late printed a traceback."""
    words = (
        "compare --data digits --per-class 2 --seeds 1 --steps 1 --methods none,nfa --processes 2"
    )
    command = [sys.executable, "-m", "nfaug", *words.split(), "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "out" / "table.md").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="make")
def test_the_demo_goes_on_and_is_then_made_anew(tmp_path: Path) -> None:
    """Break 123: make demo threw seven trainings away, and the same command began at 0."""
    folder = tmp_path / "demo"
    words = ["make", "demo", f"VENV={sys.prefix}", f"DEMO={folder}"]
    for stamp in ("all", "test", "train"):
        words += ["-o", f"{sys.prefix}/{stamp}-installed"]  # nothing is installed by a test
    words.append("DEMO_ARGS=--steps 3 --variants 2 --per-class 3 --processes 1 --test-images 40")
    cells = folder / "cells.csv"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=said, stderr=said, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if cells.exists() and len(cells.read_text().splitlines()) > 4:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = cells.read_text().splitlines()[1:]
    assert 4 <= len(kept) < 15, (tmp_path / "said").read_text()
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    whole = cells.read_text().splitlines()
    assert len(whole) == 16
    assert set(kept) <= set(whole), "nothing is trained twice"
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    seconds = [line.split(",")[3] for line in whole]
    assert seconds != [line.split(",")[3] for line in cells.read_text().splitlines()], "made anew"
