from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from loopback_hub import LoopbackHub
from nfa_tools import images_of
from PIL import Image

import nfaug
from nfaug import cli
from nfaug.cli import COMMANDS, main
from nfaug.data.images import TensorImages
from nfaug.training import RunStopped, TrainingDiverged
from nfaug.training.config import recipes

SETTINGS = """
pictures: false
trackers: []
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


class Ran:
    """The outcome of one call."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


@pytest.fixture
def nfaug_command(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str | Path) -> Ran:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # parsers exit this way
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


# The command itself.


def test_the_bare_command(nfaug_command: Any) -> None:
    for words, code in (([], 2), (["--help"], 0)):
        ran = nfaug_command(*words)
        assert ran.code == code
        for name, text in COMMANDS.items():
            assert f"{name:<10}{text}" in ran.out
    ran = nfaug_command("--version")
    assert (ran.code, ran.out.strip()) == (0, f"nfaug {nfaug.__version__}")
    ran = nfaug_command("trian")
    assert ran.code == 2
    assert "trian" in ran.err


@pytest.mark.parametrize("words", ["inof <&- >&- 2>&-", "inof 2>/dev/full"])
def test_errors_without_standard_error(words: str) -> None:
    """A message has nowhere to go, and the exit code stays."""
    command = f"{sys.executable} -m nfaug {words}"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "")


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), (">/dev/full", 1)])
def test_results_without_standard_output(redirection: str, code: int, tiny_path: Path) -> None:
    command = f"{sys.executable} -m nfaug info {tiny_path} {redirection}"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert ran.returncode == code
    assert ("cannot be printed" in ran.stderr) == (code == 1)
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


@pytest.mark.parametrize(
    "stream", [">&- 2>/dev/full", pytest.param("2>&-", marks=pytest.mark.soak)]
)
def test_work_without_standard_error(
    stream: str, tiny_path: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Bars, warnings and progress lines are dropped; the work is done."""
    words = f"bank --flow {tiny_path} --data {tiny_folder} --variants 1 --out {tmp_path / 'bank'}"
    ran = subprocess.run(["bash", "-c", f"{sys.executable} -m nfaug {words} {stream}"], check=False)
    assert ran.returncode == 0
    assert json.loads((tmp_path / "bank" / "manifest.json").read_text())["complete"] is True


HELP = {
    "demo": "--out --quick --overwrite --json",
    "train": "--data --out --recipe --config --epochs --max-minutes --batch-size --lr --seed "
    "--device --overwrite --json --resume --init --checkpoint-minutes --trackers --flow.steps "
    "--image-size --prior.kind --prior.fixed-point.kld-weight --push-to "
    "--optim.clip-norm --pca.rank --dataset.val-fraction --augmentation.hflip --print-config",
    "fit": "--flow --data --out --rank --max-per-class --no-memory --gaussians --seed --device "
    "--fixed-point.kld-weight --per-class --on-error --overwrite --json",
    "preview": "--flow --data --out --variants --image-size --classes --seed --device "
    "--overwrite --json",
    "sample": "--flow --out --per-class --temperature --json",
    "eval": "--flow --data --split --batch-size --seed --device --json",
    "info": "flow --json",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_help(verb: str, nfaug_command: Any) -> None:
    ran = nfaug_command(verb, "--help")
    assert ran.code == 0
    assert ran.err == ""
    missing = [option for option in HELP.get(verb, "--json").split() if option not in ran.out]
    assert not missing
    assert not re.findall(r"^ +(?:-\w.*, )?--\S*_\S*", ran.out, re.MULTILINE), "hyphens everywhere"
    parser = importlib.import_module(f"nfaug.commands.{verb}").parser()
    silent = [action.dest for action in parser._actions if not action.help]
    assert not silent, "every option has a help text"
    shown = re.findall(r"type:|Optional|Literal|None|default: null| 0x", ran.out)
    assert not shown, "no Python types"


@pytest.mark.parametrize(
    ("settings", "name"),
    [("flow: 3", "flow"), ("prior: {fixed_point: [1]}", "fixed_point"), ("pca: x", "pca")],
)
def test_a_file_with_another_kind_of_setting(
    settings: str, name: str, tmp_path: Path, nfaug_command: Any
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(settings)
    ran = nfaug_command("train", "--data", "digits", "--out", tmp_path / "run", "-c", file)
    assert ran.code == 2
    message = ran.err.splitlines()[-1]
    assert name in message
    assert "0x" not in message
    assert "functools" not in message


def test_16_bit_images_and_the_limit_of_pixels(tmp_path: Path, nfaug_command: Any) -> None:
    """Both settings of the data reach the reader."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = torch.randint(2**16, (8, 8), dtype=torch.int32).numpy().astype("uint16")
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    file = tmp_path / "settings.yaml"
    file.write_text(SETTINGS)
    words = ["train", "--data", tmp_path / "images", "-c", file, "--out", tmp_path / "run"]
    words += ["--pca.rank", "3"]
    ran = nfaug_command(*words)
    assert ran.code == 2
    assert "scale" in ran.err
    ran = nfaug_command(*words, "--dataset.scale-16-bit", "true", "--dataset.max-pixels", "63")
    assert ran.code == 2
    assert "max_pixels" in ran.err
    assert nfaug_command(*words, "--dataset.scale-16-bit", "true").code == 0


def test_every_command_has_a_module() -> None:
    modules = {path.stem for path in (Path(cli.__file__).parent / "commands").glob("*.py")}
    assert modules - {"__init__", "common", "parser"} == set(COMMANDS)


def test_the_list_of_commands_is_quick() -> None:
    code = (
        "import sys, nfaug.cli as c; c.main(['--help']) if 0 else c.main([]);"
        "print([n for n in sys.modules if n.startswith(('nfaug.commands', 'nfaug.training', "
        "'jsonargparse', 'matplotlib', 'timm', 'sklearn'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_console_script(tiny_path: Path) -> None:
    script = Path(sys.executable).parent / "nfaug"
    ran = subprocess.run(
        [script, "info", tiny_path, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)["class_names"] == ["cat", "dog", "eel"]
    assert ran.stderr == ""


# Training.


def test_train(tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any) -> None:
    out = tmp_path / "flow"
    words = ["--data", tiny_folder, "--out", out, "-c", settings, "--json"]
    ran = nfaug_command("train", *words, "--dataset.val-fraction", "0.1")
    assert ran.code == 0, ran.err
    assert ran.json["steps"] == 3
    assert ran.json["out"] == str(out)
    assert re.match(r"train: epoch 1 of 1, step 3, .* bits/dim", ran.err)
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
    assert checkpoint.config.class_names == ("cat", "dog", "eel")
    resolved = yaml.safe_load((out / "train.yaml").read_text())
    assert resolved["epochs"] == 1
    assert resolved["dataset"]["val_fraction"] == 0.1
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
    ran = nfaug_command("train", "-c", out / "train.yaml", "--out", again, "--pictures", "false")
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
    words = ["--flow", tmp_path / "flow", "--data", flat, "--split", "train"]
    ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["exact"] == 1
    fitted = ["--data", tiny_folder, "--rank", "4", "--out", tmp_path / "fitted"]
    ran = nfaug_command("fit", "--flow", tmp_path / "flow", *fitted)
    assert ran.code == 0, ran.err
    nfa = nfaug.NFAugment.from_pretrained(tmp_path / "fitted", p=1.0)
    images, _ = nfa(tiny_images.images, tiny_images.targets)
    assert nfa.stats()["applied"] > 18
    assert not torch.equal(images, tiny_images.images)


def test_recipes_files_and_options(settings: str, nfaug_command: Any) -> None:
    """The command line overrides the file, and the file the recipe."""
    for words in (
        ["--lr", "0.5", "-c", settings, "--recipe", "fashion-mnist"],
        ["--recipe=fashion-mnist", "-c", settings, "--lr", "0.5"],
    ):
        ordered = words if words[0].startswith("--recipe") else [*words[2:], *words[:2]]
        ran = nfaug_command("train", "--data", "x", "--out", "y", *ordered, "--print_config")
        assert ran.code == 0, ran.err
        found = yaml.safe_load(ran.out)
        assert found["lr"] == 0.5
        assert found["epochs"] == 1
        assert found["prior"]["fixed_point"]["kld_weight"] == 20
        assert found["flow"]["padded_size"] == [32, 32]
        assert found["max_minutes"] == 30


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_valid(name: str, nfaug_command: Any) -> None:
    ran = nfaug_command("train", "--data", "x", "--out", "y", "--recipe", name, "--print_config")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epoch: 3", "epoch"),
        ("flow: {layers: 3}", "layers"),
        ("prior: {fixed_point: {kl_weight: 3}}", "kl_weight"),
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
    assert ran.code == 2
    assert word in ran.err
    assert ran.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "token"),
    [
        (["--data", "no-such"], "'no-such'"),
        (["--epoch", "3"], "--epochs"),
        (["--recipe", "cifar"], "cifar100"),
        (["--recipe"], "recipe ''"),
        (["--device", "gpu"], "'gpu'"),
        (["-c", "no-such.yaml"], "no-such.yaml"),
        (["--flow.width", "[8]"], "width"),
    ],
)
def test_wrong_options(
    words: list[str], token: str, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    start = ["--data", tiny_folder] if "--data" not in words else []
    ran = nfaug_command("train", *start, "--out", tmp_path / "flow", *words)
    assert ran.code == 2
    assert token in ran.err
    assert not (tmp_path / "flow").exists()


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (["train", "--batch_size", "many"], "--batch-size", "'many'"),
        (["train", "--dataset.per_class", "1.5"], "--dataset.per-class", "1.5"),
        (["train", "--prior.kind", "vae"], "--prior.kind", "'vae'"),
        (["train", "--flow.steps", "x"], "--flow.steps", "whole numbers"),
        (["train", "--flow.stepz", "3"], "--flow.stepz", "--flow.steps"),
        (["preview", "--gate", "wide"], "--gate", "'wide'"),
        (["preview", "--per_class", "x"], "--per-class", "whole number"),
        (["eval", "--batch_siz", "3"], "--batch_siz", "--batch-size"),
        (["fit", "--fixed_point.kld_weight", "x"], "--fixed-point.kld-weight", "'x'"),
    ],
)
def test_errors_of_options_are_plain(
    words: list[str], option: str, value: str, nfaug_command: Any
) -> None:
    """They name the option as it is typed, and no type, union or object."""
    command, *rest = words
    given = ["--data", "x", "--out", "y", "--flow", "z"]
    if command == "train":
        given = given[:4]
    elif command == "eval":
        given = [*given[:2], *given[4:]]
    ran = nfaug_command(command, *given, *rest)
    assert ran.code == 2
    error = ran.err.partition("error: ")[2]
    assert option in error
    assert value in error
    assert not re.search(r"<class|Union|typing|None|Literal|Parser key| at 0x", error)


@pytest.mark.parametrize("mark", ["-", "_"])
def test_underscores_are_hyphens(mark: str, nfaug_command: Any) -> None:
    options = {
        "max-minutes": ("max_minutes", 3.0),
        "push-to": ("push_to", "owner/name"),
        "dataset.per-class": ("dataset.per_class", 4),
        "prior.fixed-point.kld-weight": ("prior.fixed_point.kld_weight", 20.0),
    }
    words = [f"--{name.replace('-', mark)}={value}" for name, (_, value) in options.items()]
    parser = importlib.import_module("nfaug.commands.train").parser()
    found = parser.parse_args(["--data", "x", "--out", "y", *words])
    assert {key: found[key] for key, _ in options.values()} == dict(options.values())
    parser = importlib.import_module("nfaug.commands.fit").parser()
    words = ["--per-class", "3", "--fixed-point.kld-weight", "20", "--no-memory"]
    required = ["--flow", "x", "--data", "y", "--out", "z"]
    words = [f"--{word[2:].replace('-', mark)}" if word[0] == "-" else word for word in words]
    found = parser.parse_args([*required, *words])
    assert (found.per_class, found.no_memory) == (3, True)
    assert found.fixed_point.kld_weight == 20


def test_files_that_cannot_be_decoded(
    tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any
) -> None:
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    (data / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    words = ["--data", data, "-c", settings, "--json"]
    ran = nfaug_command("train", *words, "--out", tmp_path / "one")
    assert ran.code == 2
    assert "broken.png" in ran.err
    ran = nfaug_command("train", *words, "--out", tmp_path / "two", "--dataset.on-error", "skip")
    assert ran.code == 0, ran.err
    assert ran.json["skipped_files"] == 1
    assert ran.json["images"] == 36


def test_a_class_of_one_image(
    tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any
) -> None:
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    for image in sorted((data / "eel").iterdir())[1:]:
        image.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = nfaug_command("train", "--data", data, "--out", tmp_path / "flow", "-c", settings)
    assert ran.code == 0
    named = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert len(named) == 1
    assert "'eel'" in named[0]
    assert (tmp_path / "flow" / "samples.png").is_file()


def test_warnings_are_short(
    tiny_folder: Path, tmp_path: Path, settings: str, nfaug_command: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        shown = warnings.showwarning
        ran = nfaug_command(
            *("train", "--data", tiny_folder, "--out", tmp_path / "flow", "-c", settings),
            *("--pca.rank", "16", "--json"),
        )
        assert warnings.showwarning is shown
    assert ran.code == 0
    assert re.search("^warning: .* 16 axes", ran.err, re.MULTILINE)
    assert ".py" not in ran.err
    assert ran.json["steps"] == 3


# The other commands.


def test_fit(tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any) -> None:
    out = tmp_path / "fitted"
    words = ["--flow", tiny_path, "--data", tiny_folder, "--out", out, "--rank", "4"]
    ran = nfaug_command("fit", *words, "--per-class", "9", "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {
        "out": str(out),
        "classes": 3,
        "images": 27,
        "axes": 4,
        "skipped_files": [],
    }
    assert (out / "samples.png").is_file()
    fitted = nfaug.load(out)
    assert fitted.config.gaussians["kind"] == "data"
    assert fitted.pca is not None
    assert fitted.pca.has_memory

    assert nfaug_command("fit", *words).code == 2
    more = ["--overwrite", "--no-memory", "--gaussians", "fpi", "--fixed-point.kld-weight", "20"]
    ran = nfaug_command("fit", *words, *more)
    assert ran.code == 0, ran.err
    fitted = nfaug.load(out)
    assert fitted.config.gaussians["kld_weight"] == 20
    assert fitted.pca is not None
    assert not fitted.pca.has_memory
    ran = nfaug_command("fit", *words, "--overwrite", "--fixed_point.kld_weight", "20")
    assert ran.code == 2
    assert "--gaussians" in ran.err


def test_eval(tiny_path: Path, tiny_folder: Path, nfaug_command: Any) -> None:
    words = ["--flow", tiny_path, "--data", tiny_folder, "--split", "train"]
    ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 36
    assert ran.json["exact"] == 1
    assert {"bits_per_dim", "nf_acc", "nf_acc_top5", "wrong_levels"} < ran.json.keys()
    ran = nfaug_command("eval", *words)
    assert "bits per dim" in ran.out
    assert "{" not in ran.out


def test_data_that_are_not_split(tiny_path: Path, tiny_folder: Path, nfaug_command: Any) -> None:
    words = ["--flow", tiny_path, "--data", tiny_folder]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = nfaug_command("eval", *words, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["images"] == 36
    assert ran.err.startswith("warning: ")
    assert "train" in ran.err
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = nfaug_command("eval", *words, "--invertibility", "--json")
    assert ran.code == 0, ran.err
    ran = nfaug_command("eval", *words, "--split", "test")
    assert ran.code == 2
    assert "split" in ran.err


def test_eval_of_other_classes(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    (data / "eel").rename(data / "ant")
    for verb, more in (("eval", []), ("preview", ["--out", tmp_path / "x.png"])):
        words = ["--flow", tiny_path, "--data", data, "--split", "train", *more]
        ran = nfaug_command(verb, *words)
        assert ran.code == 2
        assert "'ant'" in ran.err
        assert "'eel'" in ran.err


def test_preview_and_sample(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    preview = ["preview", "--flow", tiny_path, "--data", tiny_folder]
    sample = ["sample", "--flow", tiny_path]
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
        assert "folder" in ran.err


def test_a_flow_without_classes(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    whole = nfaug.load(tiny_path)
    config = nfaug.checkpoint.checkpoint.CheckpointConfig(whole.flow.config)
    flow = nfaug.Checkpoint(whole.flow, config).save(tmp_path / "bare")
    words = ["--flow", flow, "--data", tiny_folder]
    ran = nfaug_command("eval", *words)
    assert ran.code == 2
    assert "nfaug fit" in ran.err
    ran = nfaug_command("preview", *words, "--out", tmp_path / "x.png")
    assert ran.code == 2
    assert "nfaug fit" in ran.err
    ran = nfaug_command("fit", *words, "--rank", "4", "--out", tmp_path / "fitted")
    assert ran.code == 0, ran.err
    words = ["--flow", tmp_path / "fitted", "--data", tiny_folder, "--split", "train"]
    assert nfaug_command("eval", *words).code == 0


def test_info_of_a_recipe(nfaug_command: Any) -> None:
    ran = nfaug_command("info", "--recipe", "cifar10", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["flow"]["parameters"] == 42_815_440
    assert 12 < ran.json["gflop_per_image_and_direction"] < 13
    assert ran.json["images"] == 50_000
    for words in ((), ("x", "--recipe", "digits")):
        ran = nfaug_command("info", *words)
        assert ran.code == 2
        assert "--recipe" in ran.err
    ran = nfaug_command("info", "--recipe", "none")
    assert ran.code == 2
    assert "cifar10" in ran.err


def test_info(tiny_path: Path, nfaug_command: Any) -> None:
    ran = nfaug_command("info", tiny_path, "--json")
    assert ran.code == 0
    assert ran.json["classes"] == 3
    assert ran.json["pca"] == {"axes": 4, "memory_images": 36}
    assert ran.json["flow"]["steps"] == [1, 1]
    assert ran.json["flow"]["parameters"] > 1000
    ran = nfaug_command("info", tiny_path)
    assert "class names              cat, dog, eel" in ran.out


def test_control_characters_do_not_reach_the_terminal(
    tiny_path: Path, tmp_path: Path, nfaug_command: Any
) -> None:
    checkpoint = nfaug.load(tiny_path)
    checkpoint.config.training["note"] = "\x1b[2Jgone\nü\u202e"
    checkpoint.save(tmp_path / "flow")
    ran = nfaug_command("info", tmp_path / "flow")
    assert "\N{REPLACEMENT CHARACTER}[2Jgone ü\N{REPLACEMENT CHARACTER}" in ran.out
    assert nfaug_command("info", tmp_path / "flow", "--json").out.isascii()


def test_a_damaged_checkpoint(tiny_path: Path, tmp_path: Path, nfaug_command: Any) -> None:
    flow = Path(shutil.copytree(tiny_path, tmp_path / "flow"))
    with (flow / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    ran = nfaug_command("info", flow)
    assert ran.code == 2
    assert "model.safetensors" in ran.err
    assert "Traceback" not in ran.err
    ran = nfaug_command("info", tmp_path)
    assert ran.code == 2
    assert "config.json" in ran.err


def test_a_missing_repository(hub: LoopbackHub, nfaug_command: Any) -> None:
    ran = nfaug_command("info", "owner/no-such-flow")
    assert ran.code == 2
    assert "owner/no-such-flow" in ran.err
    assert "Traceback" not in ran.err


def test_demo(tmp_path: Path, nfaug_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfaug.training import demo

    calls = []

    def run_demo(out: Path, settings: demo.DemoSettings, **_: Any) -> dict[str, Any]:
        calls.append(settings)
        return {"out": str(out)}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    out = tmp_path / "demo"
    ran = nfaug_command("demo", "--quick", "--out", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["report"] == str(out / "report.md")
    assert nfaug_command("demo", "--out", out).code == 0
    assert calls == [demo.DemoSettings.quick(), demo.DemoSettings()]
    out.mkdir()
    (out / "report.md").write_text("old")
    assert nfaug_command("demo", "--out", out).code == 2
    assert nfaug_command("demo", "--out", out, "--overwrite").code == 0


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
            ModuleNotFoundError("No module named 'timm'"),
            1,
            "nfaug info: No module named 'timm': pip install 'nfaug[train]'",
        ),
        (
            ModuleNotFoundError('it comes with: pip install "nfaug[train]"'),
            1,
            'nfaug info: it comes with: pip install "nfaug[train]"',
        ),
    ],
)
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


def test_a_bug_is_not_hidden(nfaug_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise AttributeError("oops")

    monkeypatch.setattr("nfaug.commands.info.run", fail)
    with pytest.raises(AttributeError, match="oops"):
        nfaug_command("info", "x")


def test_values_that_json_does_not_have(
    nfaug_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_closed_pipe(tiny_path: Path) -> None:
    script = Path(sys.executable).parent / "nfaug"
    command = f"'{script}' info '{tiny_path}' | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert ran.stderr == ""


def test_colour_images_of_any_size(tmp_path: Path, settings: str, nfaug_command: Any) -> None:
    """Photographs of another size and shape, resized by the settings."""
    labels = torch.arange(12) % 2
    images = images_of(labels, channels=3, size=(20, 14))
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "photos" / ("fox", "owl")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.jpg")
    out = tmp_path / "flow"
    ran = nfaug_command(
        *("train", "--data", tmp_path / "photos", "--out", out, "-c", settings),
        *("--dataset.image-size", "[8, 8]", "--augmentation.hflip", "true"),
    )
    assert ran.code == 0, ran.err
    assert nfaug.load(out).flow.config.shape == (3, 8, 8)
    ran = nfaug_command("eval", "--flow", out, "--data", tmp_path / "photos", "--split", "train")
    assert ran.code == 0, ran.err
    assert os.path.getsize(out / "samples.png") > 100
