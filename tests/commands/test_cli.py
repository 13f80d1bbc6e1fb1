from __future__ import annotations

import importlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tools.commands import PHASES, Ran, run_main
from tools.hub import FakeHub
from tools.nfa import NAMES, TensorImages, batch_of, images_of, write_images

import nfaug
from nfaug.commands import COMMANDS
from nfaug.hub.card import make_card
from nfaug.training import RunStopped, TrainingDiverged
from nfaug.training.config import recipes

SETTINGS = """
pictures_every: 0
tensorboard: false
epochs: 1
batch_size: 12
flow: {steps: [1, 1], blocks: [1, 1], width: [8, 8]}
prior: {fixed_point: {kld_weight: 20}}
pca: {rank: 4}
"""


@pytest.fixture
def settings(tmp_path: Path) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    return str(path)


@pytest.fixture
def nfaug_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(run_main, capsys)


# The command itself.


def test_the_bare_command(nfaug_command: Any) -> None:
    for words, code in (([], 2), (["--help"], 0)):
        ran = nfaug_command(*words)
        assert ran.code == code
        for name, text in COMMANDS.items():
            assert f"  {name:<12}{text}" in ran.out
    ran = nfaug_command("--version")
    assert (ran.code, ran.out.strip()) == (0, f"nfaug {nfaug.__version__}")
    ran = nfaug_command("trian")
    assert ran.code == 2
    assert "trian" in ran.err


HELP = {
    "compare": "--json --data --test-data --image-size --checkpoint --per-class --methods --seeds",
    "train": "--recipe --config --resume --max-minutes --flow.steps --prior.fixed-point.kld-weight "
    "--optim.clip-norm --dataset.test-fraction --print-config",
    "fit": "--checkpoint --image-size --per-class --no-memory --gaussians --on-error",
    "preview": "--checkpoint --data --image-size --strength --gate",
    "timm": "--checkpoint --autoencoder --p --strength",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_help(verb: str, nfaug_command: Any) -> None:
    long = "--help-all" in nfaug_command(verb, "--help").out
    ran = nfaug_command(verb, "--help-all" if long else "--help")
    assert ran.code == 0
    assert ran.err == ""
    missing = [option for option in HELP.get(verb, "--json").split() if option not in ran.out]
    assert not missing
    assert not re.findall(r"^ +(?:-\w.*, )?--\S*_\S*", ran.out, re.MULTILINE), "hyphens everywhere"
    assert not re.findall(r"^ {2,4}--?\w\S*(?: \S+)?\n(?! {20})", ran.out, re.MULTILINE), (
        "all have texts"
    )
    shown = re.findall(r"type:|Optional|Literal|None|default: null| 0x", ran.out)
    assert not shown, "no Python types"


FIT = ["fit", "--checkpoint", "f", "--data", "d", "--out", "o"]
TRAIN = ["train", "--data", "d", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        ([*TRAIN, "--epoch", "3"], ["--epoch"]),
        ([*TRAIN, "--batch-size", "many"], ["--batch-size", "many"]),
        ([*TRAIN, "--prior.kind", "vae"], ["prior.kind", "vae"]),
        ([*TRAIN, "--flow.stepz", "3"], ["--flow.stepz"]),
        ([*TRAIN, "--recipe", "cifar"], ["'cifar'", "cifar100"]),
        ([*TRAIN, "--recipe"], ["recipe ''"]),
        ([*TRAIN, "-c", "no-such.yaml"], ["no-such.yaml"]),
        ([*FIT, "--per-class", "x"], ["--per-class", "x"]),
        ([*FIT, "--seed", "x\x1b[31m"], ["seed", r"x\x1b[31m"]),
        ([*FIT, "--image-size", "0"], ["--image-size", "'0'", "128,96"]),
        ([*FIT, "--on-error", "maybe"], ["--on-error", "'maybe'", "skip"]),
        (["fit", "--checkpoint", "f", "--data", ".", "--out", "o"], ["--out o", "--data ."]),
        (["fit"], ["checkpoint", "data", "out"]),
        (["info"], ["checkpoint"]),
        (
            ["eval", "--checkpoint", "f", "--data", "d", "--batch-size", "0"],
            ["--batch-size", "from 1", "'0'"],
        ),
        (
            ["bank", "--checkpoint", "builtin:rgb32", "--data", "digits", "--out", "o"],
            ["8 x 8", "32 x 32", "--image-size"],
        ),
    ],
    ids=str,
)
def test_wrong_words(words: list[str], tokens: list[str], nfaug_command: Any) -> None:
    """One line, which quotes what was given; nothing is written."""
    ran = nfaug_command(*words)
    assert (ran.code, ran.out) == (2, "")
    said = [line for line in ran.err.splitlines() if not line.startswith(PHASES)]
    assert len(said) == 1
    assert [token for token in tokens if token not in said[0]] == []
    assert not re.search(r"<class| at 0x|\x1b", ran.err)
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("given", "size"), [("20", (20, 20)), ("20,16", (20, 16)), (None, None)], ids=str
)
def test_one_spelling_of_a_size(given: str | None, size: Any) -> None:
    for verb in ("fit", "preview", "bank"):
        parser = importlib.import_module(f"nfaug.commands.{verb}").parser()
        words = [*FIT[1:], *([] if given is None else ["--image-size", given])]
        assert parser.parse_args(words).image_size == size


def test_the_list_of_commands_is_quick() -> None:
    code = (
        "import sys, nfaug.cli as c; c.main(['--help']) if 0 else c.main([]);"
        "print([n for n in sys.modules if n.startswith(('nfaug.commands.', 'nfaug.training', "
        "'jsonargparse', 'matplotlib', 'timm', 'sklearn'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_console_script(tiny_path: Path) -> None:
    script = Path(sys.executable).parent / "nfaug"
    words = [str(script), "info", str(tiny_path)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert "cat, dog, eel" in ran.stdout


# Training.


def test_train(tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any) -> None:
    out = tmp_path / "flow"
    words = ["--data", tiny_folder, "--out", out, "-c", settings, "--json"]
    ran = nfaug_command("train", *words, "--dataset.test-fraction", "0.1")
    assert ran.code == 0, ran.err
    assert ran.json["steps"] == 3
    assert ran.json["out"] == str(out)
    assert re.search(r"train: epoch 1 of 1, step 3, .* bits/dim", ran.err)
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "gaussians.safetensors",
        "log.csv",
        "model.safetensors",
        "pca.safetensors",
        "samples.png",
        "state",
        "train.yaml",
    ]
    checkpoint = nfaug.load(out)
    assert checkpoint.config.classes == ("cat", "dog", "eel")
    resolved = yaml.safe_load((out / "train.yaml").read_text())
    assert resolved["epochs"] == 1
    assert resolved["dataset"]["test_fraction"] == 0.1
    assert resolved["prior"]["fixed_point"]["kld_weight"] == 20
    assert resolved["optim"]["clip_norm"] == 10, "defaults too"

    # An existing folder is only overwritten with --overwrite.
    ran = nfaug_command("train", *words)
    assert ran.code == 2
    assert "--overwrite" in ran.err
    (out / "README.md").write_text("mine")
    ran = nfaug_command("train", *words, "--overwrite", "--prior.kind", "single")
    assert ran.code == 0, ran.err
    left = sorted(file.name for file in out.iterdir())
    assert left == [
        *("README.md", "config.json", "gaussians.safetensors", "log.csv"),
        *("model.safetensors", "state", "train.yaml"),
    ], "no axes and no stale picture"

    # The settings that were saved make the same flow again.
    again = tmp_path / "again"
    ran = nfaug_command("train", "-c", out / "train.yaml", "--out", again, "--pictures-every", "0")
    assert ran.code == 0, ran.err
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (again / "train.yaml").read_text() == (out / "train.yaml").read_text()


def test_train_without_classes(
    tiny_images: TensorImages,
    tiny_folder: Path,
    tmp_path: Path,
    settings: str,
    nfaug_command: Any,
) -> None:
    """A flat folder trains a flow; `nfaug fit` adds classes, after which it augments."""
    flat = tmp_path / "photos"
    flat.mkdir()
    for index, image in enumerate(tiny_images.images):
        Image.fromarray(image[0].numpy()).save(flat / f"{index}.png")
    words = ["--data", flat, "--out", tmp_path / "flow", "-c", settings]
    ran = nfaug_command("train", *words)
    assert ran.code == 2
    assert "--prior.kind single" in ran.err
    ran = nfaug_command("train", *words, "--prior.kind", "single", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 35, "one in twenty is held out"
    assert "bits_per_dim" in ran.json["held_out"]
    words = ["--checkpoint", tmp_path / "flow", "--data", flat, "--split", "train"]
    ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["exact"] == 1
    fitted = ["--data", tiny_folder, "--rank", "4", "--out", tmp_path / "fitted"]
    ran = nfaug_command("fit", "--checkpoint", tmp_path / "flow", *fitted)
    assert ran.code == 0, ran.err
    nfa = nfaug.NFAugment.from_pretrained(tmp_path / "fitted", p=1.0)
    images, _ = nfa(tiny_images.images, tiny_images.targets)
    assert nfa.stats()["applied"] > 18
    assert not torch.equal(images, tiny_images.images)


def test_recipes_files_and_options(settings: str, nfaug_command: Any) -> None:
    """The command line overrides the file, and the file the recipe."""
    words = ["--recipe=fashion-mnist", "-c", settings, "--lr", "0.5", "--print-config"]
    ran = nfaug_command(*TRAIN, *words)
    assert ran.code == 0, ran.err
    found = yaml.safe_load(ran.out)
    assert (found["lr"], found["epochs"], found["max_minutes"]) == (0.5, 1, 30)
    assert found["flow"]["padded_size"] == [32, 32]
    for name in recipes():
        ran = nfaug_command(*TRAIN, "--recipe", name, "--print-config")
        assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epoch: 3", "epoch"),
        ("flow: {layers: 3}", "layers"),
        ("flow: 3", "flow"),
        ("prior: {fixed_point: [1]}", "fixed_point"),
        ("prior: {kind: vae}", "vae"),
        ("epochs: many", "epochs"),
        ("epochs: -1", "-1"),
        ("recipe: digits", "--recipe"),
        ("[", "config"),
    ],
)
def test_wrong_settings(
    text: str, word: str, settings: str, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    Path(settings).write_text(text)
    out = tmp_path / "flow"
    ran = nfaug_command("train", "--data", tiny_folder, "--out", out, "-c", settings)
    assert (ran.code, ran.out) == (2, "")
    assert word in ran.err
    assert "functools" not in ran.err
    assert not out.exists()


# The other commands.


def test_fit(tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any) -> None:
    out = tmp_path / "fitted"
    words = ["--checkpoint", tiny_path, "--data", tiny_folder, "--out", out, "--rank", "4"]
    ran = nfaug_command("fit", *words, "--per-class", "9", "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {
        "out": str(out),
        "classes": 3,
        "images": 27,
        "image_size": [8, 8],
        "channels": 1,
        "axes": 4,
        "skipped_files": [],
    }
    said = "27 images of 3 classes, grayscale (1 channel)"
    assert said in ran.err.splitlines()[0], "before the work begins"
    assert (out / "samples.png").is_file()
    fitted = nfaug.load(out)
    assert fitted.gaussians is None
    assert fitted.pca is not None
    assert fitted.pca.has_memory

    ran = nfaug_command("fit", *words, "--per-class", "1000", "--overwrite", "--json")
    assert ran.json["images"] == 36, "all of classes that have fewer"

    assert nfaug_command("fit", *words).code == 2
    more = ["--overwrite", "--no-memory", "--gaussians", "fpi"]
    ran = nfaug_command("fit", *words, *more)
    assert ran.code == 0, ran.err
    fitted = nfaug.load(out)
    assert fitted.config.gaussians["kind"] == "fpi"
    assert fitted.pca is not None
    assert not fitted.pca.has_memory


def test_the_channels_of_grayscale_images(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any
) -> None:
    """A network with three input channels needs a checkpoint of three."""
    made = tmp_path / "pixels"
    words = ["--data", tiny_folder, "--split", "train", "--json", "--overwrite"]
    fit = ["fit", "--checkpoint", "builtin:pixels", *words, "--out", made]
    bank = ["bank", "--checkpoint", made, *words, "--out", tmp_path / "bank", "--variants", "2"]
    for channels, options in ((1, []), (3, ["--channels", "3"]), (1, ["--channels", "1"])):
        for command in (fit, bank):
            ran = nfaug_command(*command, *options)
            assert ran.code == 0, ran.err
            assert ran.json["channels"] == channels
        assert nfaug.load(made).flow.codec.channels == channels
    for command in (bank, ["fit", "--checkpoint", tiny_path, *words, "--out", tmp_path / "no"]):
        ran = nfaug_command(*command, "--channels", "3")
        assert ran.code == 2
        assert "takes images of 1" in ran.err
    train = ["train", "-c", settings, *words, "--out", tmp_path / "flow"]
    ran = nfaug_command(*train, "--channels", "3")
    assert ran.code == 0, ran.err
    assert ran.json["channels"] == 3
    assert nfaug.load(tmp_path / "flow").flow.codec.channels == 3
    ran = nfaug_command(*fit, "--channels", "2")
    assert ran.code == 2
    assert "--channels" in ran.err


def test_fit_of_photographs_of_many_sizes(tmp_path: Path, nfaug_command: Any) -> None:
    """Every flow takes them: at its own size, or for flows of any size at a size that is told."""
    for index, image in enumerate(images_of(torch.arange(12) % 2, size=(40, 30))):
        folder = tmp_path / "photos" / ("fox", "owl")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.resize((30 + index, 40)).save(folder / f"{index}.jpg")
    words = ["fit", "--data", tmp_path / "photos", "--rank", "3", "--json", "--overwrite"]
    words += ["--out", tmp_path / "flow"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = nfaug_command(*words, "--checkpoint", "builtin:pixels")
    assert ran.code == 0, ran.err
    assert ran.json["image_size"] == [36, 36], "the median of the shorter sides"
    assert "--image-size" in ran.err
    ran = nfaug_command(*words, "--checkpoint", "builtin:pixels", "--image-size", "24,16")
    assert ran.json["image_size"] == [24, 16]
    ran = nfaug_command(*words, "--checkpoint", "builtin:rgb32")
    assert ran.json["image_size"] == [32, 32]
    ran = nfaug_command(*words, "--checkpoint", "builtin:rgb32", "--image-size", "24")
    assert ran.code == 2
    assert "builtin:pixels" in ran.err


def test_eval(tiny_path: Path, tiny_folder: Path, nfaug_command: Any) -> None:
    words = ["--checkpoint", tiny_path, "--data", tiny_folder, "--split", "train"]
    ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 36
    assert ran.json["exact"] == 1
    assert {"bits_per_dim", "nf_acc", "nf_acc_top5", "wrong_levels"} < ran.json.keys()
    ran = nfaug_command("eval", *words)
    assert "bits per dim" in ran.out
    assert "{" not in ran.out


def test_data_that_are_not_split(tiny_path: Path, tiny_folder: Path, nfaug_command: Any) -> None:
    words = ["--checkpoint", tiny_path, "--data", tiny_folder]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 36
    assert ran.err.startswith("warning: ")
    assert "train" in ran.err
    ran = nfaug_command("eval", *words, "--split", "test")
    assert ran.code == 2
    assert "split" in ran.err


@pytest.mark.filterwarnings("always")
def test_data_of_other_classes(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    (data / "eel").rename(data / "ant")
    ran = nfaug_command("eval", "--checkpoint", tiny_path, "--data", data, "--split", "train")
    assert ran.code == 2
    assert "'ant'" in ran.err
    ran = nfaug_command(
        "preview", "--checkpoint", tiny_path, "--data", data, "--out", tmp_path / "x.png"
    )
    assert ran.code == 0, ran.err
    assert "nfaug fit keeps one" in ran.err


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("name", ["builtin:rgb32", "builtin:pixels"])
def test_preview_of_a_bundled_flow_draws_at_the_size_of_the_images(
    name: str, tmp_path: Path, nfaug_command: Any
) -> None:
    data = write_images(tmp_path, 80, data=4) / "data"
    words = ["--checkpoint", name, "--data", data, "--variants", "1"]
    ran = nfaug_command("preview", *words, "--out", tmp_path / "x.png", "--json")
    assert ran.code == 0, ran.err
    assert 3 * 80 < ran.json["width"] < 3 * 80 + 80, "an image, decoded, and a variant"
    assert ran.json["height"] > 3 * 80


@pytest.mark.filterwarnings("always")
def test_samples_that_are_a_blur_are_explained(tmp_path: Path, nfaug_command: Any) -> None:
    flow = nfaug.load("builtin:fashion-mnist")
    flow.config.metrics["nf_acc"] = 0.45
    flow.save(tmp_path / "flow")
    for name, blurred in ((tmp_path / "flow", True), ("builtin:fashion-mnist", False)):
        out = tmp_path / f"{blurred}.png"
        ran = nfaug_command("sample", "--checkpoint", name, "--out", out)
        assert ran.code == 0, ran.err
        assert ("nfaug preview" in ran.err) == blurred
    flow.config.metrics["nf_acc"] = None  # as figures that are not finite are stored
    flow.save(tmp_path / "none")
    ran = nfaug_command("sample", "--checkpoint", tmp_path / "none", "--out", tmp_path / "n.png")
    assert ran.code == 0, ran.err


def test_preview_reads_images_with_the_channels_of_the_fit(
    tmp_path: Path, nfaug_command: Any
) -> None:
    """Gray images that were fitted as RGB, and color ones that were fitted as gray."""
    data = write_images(tmp_path, 16, color=4)
    for file in sorted((data / "color").glob("*/*.png")):
        gray = data / "gray" / file.relative_to(data / "color")
        gray.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).convert("L").save(gray)
    for kind, channels in (("gray", 3), ("color", 1)):
        flow = tmp_path / f"{kind}-{channels}"
        words = ["--checkpoint", "builtin:pixels", "--data", data / kind, "--out", flow]
        assert nfaug_command("fit", *words, "--channels", channels).code == 0
        words = ["--checkpoint", flow, "--data", data / kind, "--out", tmp_path / f"{kind}.png"]
        ran = nfaug_command("preview", *words)
        assert ran.code == 0, ran.err


def test_preview_and_sample(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    preview = ["preview", "--checkpoint", tiny_path, "--data", tiny_folder]
    sample = ["sample", "--checkpoint", tiny_path]
    for words in (preview, sample):
        file = tmp_path / "deep" / f"{words[0]}.png"
        ran = nfaug_command(*words, "--out", file, "--json")
        assert ran.code == 0, ran.err
        with Image.open(file) as picture:
            assert ran.json == {"out": str(file), "width": picture.width, "height": picture.height}
        ran = nfaug_command(*words, "--out", file)
        assert ran.code == 2
        assert "--overwrite" in ran.err
        assert nfaug_command(*words, "--out", file, "--overwrite").code == 0
        ran = nfaug_command(*words, "--out", tmp_path / "x.gif")
        assert ran.code == 2
        assert ".png" in ran.err
        ran = nfaug_command(*words, "--out", tmp_path)
        assert ran.code == 2
        assert "file" in ran.err


@pytest.mark.filterwarnings("always")
def test_a_flow_without_classes(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    whole = nfaug.load(tiny_path)
    config = nfaug.checkpoint.checkpoint.CheckpointConfig(whole.flow.config)
    flow = nfaug.Checkpoint(whole.flow, config).save(tmp_path / "bare")
    words = ["--checkpoint", flow, "--data", tiny_folder]
    for command, more in (("eval", words), ("sample", [*words[:2], "--out", tmp_path / "s.png"])):
        ran = nfaug_command(command, *more)
        assert ran.code == 2
        assert "nfaug fit --gaussians data" in ran.err
    ran = nfaug_command("preview", *words, "--out", tmp_path / "x.png")
    assert ran.code == 0, ran.err
    assert "nfaug fit" in ran.err
    words += ["--rank", "4", "--gaussians", "data"]
    ran = nfaug_command("fit", *words, "--out", tmp_path / "fitted")
    assert ran.code == 0, ran.err
    words = ["--checkpoint", tmp_path / "fitted", "--data", tiny_folder, "--split", "train"]
    assert nfaug_command("eval", *words).code == 0
    words = ["--checkpoint", tmp_path / "fitted", "--out", tmp_path / "s.png"]
    assert nfaug_command("sample", *words).code == 0


@pytest.mark.filterwarnings("always")
def test_a_fit_without_gaussians_serves_every_other_command(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, hub: FakeHub, nfaug_command: Any
) -> None:
    flow = tmp_path / "flow"
    data = ["--data", tiny_folder, "--split", "train"]
    words = ["--checkpoint", tiny_path, *data, "--rank", "4", "--out", flow]
    assert nfaug_command("fit", *words).code == 0
    assert not (flow / "gaussians.safetensors").exists()
    told = nfaug_command("info", flow, "--json")
    assert told.code == 0, told.err
    assert told.json["gaussians"]["images"] == 36
    for command in ("preview", "bank"):
        words = ["--checkpoint", flow, *data, "--out", tmp_path / f"{command}.png"]
        ran = nfaug_command(command, *words, "--variants", "2")
        assert ran.code == 0, ran.err
    (flow / "samples.png").unlink()  # a push would draw samples in its place
    ran = nfaug_command("push", flow, "owner/flow")
    assert ran.code == 0, ran.err
    pulled = nfaug.load("owner/flow")
    assert pulled.gaussians is None
    images, labels = batch_of(12, channels=1)
    variants, _ = nfaug.NFAugment(pulled, p=1.0, gate=None)(images, labels)
    assert not torch.equal(variants, images)
    copy = nfaug.load(pulled.save(tmp_path / "copy"))
    card = make_card(copy.config, copy.pca, "owner/flow")
    assert "Its axes were fitted to 36 images" in card
    assert "nfaug eval" not in card


def test_info(tiny_path: Path, nfaug_command: Any) -> None:
    ran = nfaug_command("info", tiny_path, "--json")
    assert ran.code == 0
    assert ran.json["num_classes"] == 3
    assert ran.json["pca"] == {"axes": 4, "memory_images": 36}
    assert ran.json["flow"]["steps"] == [1, 1]
    assert ran.json["flow"]["parameters"] > 1000
    gflop = ran.json["gflop_of_the_flow_per_image"]
    assert gflop["bank_of_20_variants"] == pytest.approx(21 * gflop["encode_or_decode"])
    ran = nfaug_command("info", tiny_path)
    assert "classes                  cat, dog, eel" in ran.out


def test_a_missing_repository(hub: FakeHub, nfaug_command: Any) -> None:
    ran = nfaug_command("info", "owner/no-such-flow")
    assert ran.code == 2
    assert "owner/no-such-flow" in ran.err
    assert "Traceback" not in ran.err


def test_compare(tmp_path: Path, nfaug_command: Any) -> None:
    """Advice, the table, settings to paste and an example; a finished folder is shown again."""
    for part, seed in (("data", 0), ("test", 1)):
        labels = torch.arange(80) % 2
        for index, image in enumerate(images_of(labels, channels=1, seed=seed)):
            folder = tmp_path / part / ("fox", "owl")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{index}.png")
    data, out = tmp_path / "data", tmp_path / "out"
    words = ["--data", data, "--per-class", "4", "--seeds", "3", "--steps", "2"]
    words += ["--variants", "2", "--processes", "1"]
    ran = nfaug_command("compare", *words, "--out", out)
    assert ran.code == 0, ran.err
    table = (out / "table.md").read_text()
    assert ran.out.startswith(table.rstrip())
    assert "| NFA in pixels |" in ran.out
    assert "python examples/train_classifier.py --data" in ran.out
    assert str(out) in ran.out
    for said in ("40 test images", "Methods: nothing more, RandAugment", "NFA in pixels, seed 2: "):
        assert said in ran.err
    again = nfaug_command("compare", *words, "--out", out)
    assert (again.code, again.out) == (0, ran.out)
    test = ["--test-data", tmp_path / "test", "--out", tmp_path / "judged"]
    judged = nfaug_command("compare", *words, *test, "--json")
    assert judged.code == 0, judged.err
    found = judged.json
    assert (tmp_path / "judged" / "table.md").read_text().startswith(found["advice"])
    assert len((tmp_path / "judged" / "cells.csv").read_text().splitlines()) == 16
    assert found["seeds"] == 3
    assert len(found["gain"]) == len(found["accuracy"]) - 1 == 4
    assert "--test-data" in found["example"]


def test_the_example_of_compare_has_its_channels(tmp_path: Path, nfaug_command: Any) -> None:
    write_images(tmp_path / "data", 8, train=12, val=40)
    Image.new("L", (8, 8)).save(tmp_path / "data" / "train" / NAMES[0] / "0.png")  # among color
    words = ["--steps", 1, "--seeds", 3, "--methods", "none,mixup", "--processes", 1]
    words += ["--data", tmp_path / "data", "--channels", 1, "--out", tmp_path / "out"]
    ran = nfaug_command("compare", *words)
    assert ran.code == 0, ran.err
    assert "--channels 1" in ran.out.partition("train_classifier.py")[2].splitlines()[0]


def test_compare_prints_the_command_at_one_size(tmp_path: Path, nfaug_command: Any) -> None:
    """Frozen features have the network's own size, here 160, and fine-tuning has 32."""
    write_images(tmp_path / "data", 32, train=12, val=40)
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    words = ["--data", tmp_path / "data", "--network", "test_resnet", "--weights", file]
    words += ["--methods", "frozen,none", "--per-class", "4", "--seeds", "3", "--steps", "1"]
    ran = nfaug_command("compare", *words, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    _, _, after = ran.out.partition("The same comparison at one size:\n\n")
    program, *again = shlex.split(after.splitlines()[0])
    assert program == "nfaug"
    assert again[again.index("--image-size") + 1] == "160"
    again[again.index("--out") + 1] = str(tmp_path / "again")
    found = nfaug_command(*again, "--json")
    assert found.code == 0, found.err
    assert set(found.json["accuracy"]) == {"frozen features", "fine-tuned"}
    assert "one_size" not in found.json


def test_threads_do_not_spin_while_they_wait(tmp_path: Path) -> None:
    """A variable that is read when torch is loaded; one that the user has set stays."""
    start = (
        "import atexit, os, nfaug.cli; atexit.register(lambda: print(os.environ['GOMP_SPINCOUNT']))"
        "; nfaug.cli.main(['list', '--help'])"
    )
    for given, expected in ((None, "0"), ("7", "7")):
        environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
        if given is not None:
            environment["GOMP_SPINCOUNT"] = given
        ran = subprocess.run(
            [sys.executable, "-c", start], env=environment, capture_output=True, text=True
        )
        assert ran.stdout.splitlines()[-1] == expected, ran.stderr


# Exit codes and output.


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "nfaug info: interrupted"),
        (ValueError("no such thing"), 2, "nfaug info: error: no such thing"),
        (OSError("disk full"), 2, "nfaug info: error: disk full"),
        (TrainingDiverged("3 steps"), 3, "nfaug info: TrainingDiverged: 3 steps"),
        (RunStopped("resume it"), 4, "nfaug info: error: resume it"),
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"), 1,
            "nfaug info: No module named 'timm'. In your clone of nfaug, run: "
            'pip install -e ".[train]"',
        ),
        (
            ModuleNotFoundError("No module named 'other'", name="other"), 1,
            "nfaug info: No module named 'other'",
        ),
    ],
)  # fmt: skip
def test_exit_codes(
    error: BaseException,
    code: int,
    message: str,
    nfaug_command: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr("nfaug.commands.info.run", fail)
    ran = nfaug_command("info", "x")
    assert (ran.code, ran.out, ran.err.strip()) == (code, "", message)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**55), lambda: bytearray(2**62)])
def test_too_little_memory_is_one_line(
    allocate: Any, nfaug_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfaug.commands.info.run", lambda _: allocate())
    ran = nfaug_command("info", "x")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("nfaug info: error: there is not enough memory")
    assert ran.err.count("\n") == 1


def test_a_bug_is_not_hidden(nfaug_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise AttributeError("oops")

    monkeypatch.setattr("nfaug.commands.info.run", fail)
    with pytest.raises(AttributeError, match="oops"):
        nfaug_command("info", "x")


def test_values_that_json_lacks(nfaug_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"loss": math.nan, "each": [1.0, math.inf], "size": (3, 4), "none": None, "empty": {}}
    monkeypatch.setattr("nfaug.commands.info.run", lambda _: result)
    assert nfaug_command("info", "x", "--json").json == {
        "loss": None,
        "each": [1.0, None],
        "size": [3, 4],
        "none": None,
        "empty": {},
    }
    out = nfaug_command("info", "x").out
    assert out.splitlines()[0].split() == ["loss", "nan"]
    assert "none" not in out
