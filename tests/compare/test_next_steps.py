"""What a comparison prints to paste and to run: every form of it runs."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from nfa_tools import TensorImages, batch_of, images_of, write_images
from PIL import Image
from safetensors.torch import save_file

from nfaug.cli import main
from nfaug.compare import CompareConfig, read_images
from nfaug.compare.next_steps import TIMM_READS, example_command, paste, timm_commands
from nfaug.compare.rows import PIXELS, ROWS, Row

TRAINED = [name for name in ROWS if name != "frozen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `data` of images of three classes, and weights."""
    folder = tmp_path_factory.mktemp("here")
    write_images(folder / "data", 32, train=8, val=4)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "w.safetensors")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_lines_to_paste(name: str) -> None:
    labels = torch.arange(24) % 3
    dataset = TensorImages(images_of(labels), labels, ("a", "b", "c"))
    config = CompareConfig(per_class=4, p=0.25)
    code = "\n".join(paste(ROWS[name], config, read_images(dataset, config=config)))
    batch, classes = batch_of(8)
    scope: dict[str, Any] = {"dataset": dataset, "batch": batch, "labels": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes of few images
        exec(compile(code, "pasted", "exec"), scope)
    assert scope["batch"].shape == batch.shape
    assert bool(code) == (name != "none")
    if ROWS[name].flow:
        assert scope["nfa"].p == 0.25
        assert scope["nfa"].stats()["seen"] == 8
    if name == "mixup":
        assert scope["labels"].shape == (8, 3)


@pytest.mark.parametrize(
    ("kind", "per_class", "network", "channels"),
    [
        ("own", 4, "test_resnet", 3),
        ("small", 4, "test_resnet", 3),
        ("own", 1, "test_resnet", 3),
        ("own", 4, "test_resnet", 1),
        ("small", 4, "test_resnet", 1),
        ("own", 4, "test_vit", 3),
        ("small", 4, "test_vit", 3),
    ],
)
def test_lines_to_paste_for_frozen_features(
    kind: str, per_class: int, network: str, channels: int, tmp_path: Path
) -> None:
    labels = torch.arange(24) % 3
    pixels = images_of(labels, size=(64, 64))[:, :channels]
    dataset = TensorImages(pixels, labels, ("a", "b", "c"))
    weights = str(tmp_path / "w.safetensors")
    save_file(timm.create_model(network).state_dict(), weights)
    config = CompareConfig(network=network, weights=weights, per_class=per_class)
    lines = paste(Row(frozen=kind), config, read_images(dataset, config=config))
    random = np.random.default_rng(0)
    scope = {"features": random.standard_normal((12, 8)), "labels": np.arange(12) % 3}
    assert ("GridSearchCV(" in "\n".join(lines)) == (per_class > 1)
    exec(compile("\n".join(lines), "pasted", "exec"), scope)
    image = Image.new("RGB" if channels == 3 else "L", (40, 30))
    batch = scope["transform"](image)[None]  # type: ignore[operator]
    side = 160 if kind == "own" else 64
    assert batch.shape[1:] == (channels, side, side)
    assert scope["network"].eval()(batch).ndim == 2  # type: ignore[attr-defined]
    assert scope["scale"] == scope["features"].std()  # type: ignore[attr-defined]
    scope["new_features"] = scope["features"]
    (others,) = [line for line in lines if line.startswith("# model.predict")]
    guesses = eval(others.removeprefix("# ").removesuffix(" classifies others"), scope)
    assert guesses.shape == (12,)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["none", "mixup", "nfa+randaugment"])
def test_the_example(
    name: str,
    pretrained: bool,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runpy

    network = {"network": "test_resnet", "weights": "w.safetensors"} if pretrained else {}
    config = CompareConfig(rows=name, per_class=4, steps=2, augment="flip,crop", **network)
    (row,) = config.table()
    command = example_command(row, config, "data", {"test_data": None}, (32, 16))
    program, script, *words = shlex.split(command)
    assert program == "python"
    monkeypatch.setattr("sys.argv", [script, *words])
    root = Path(__file__).resolve().parents[2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* look like one")
        runpy.run_path(str(root / script), run_name="__main__")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("accuracy on 12 images: ")
    assert said.count("%") == 1 + (name != "none")


def test_frozen_features_have_no_example(here: Path) -> None:
    config = CompareConfig(network="test_resnet", weights="w.safetensors")
    assert example_command(Row(frozen="own"), config, "data", {}, (32, 32)) == ""


TRAIN = """
import argparse

import torch
from timm.data import create_dataset, create_loader
from timm.models import create_model
from timm.utils import ParseKwargs

parser = argparse.ArgumentParser()
for name in ("--data-dir", "--model", "--aa", "--pretrained-path", "--train-split", "--val-split"):
    parser.add_argument(name)
parser.add_argument("--num-classes", type=int)
parser.add_argument("--input-size", type=int, nargs=3)
parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
for name in ("--mixup", "--hflip", "--vflip", "--color-jitter"):
    parser.add_argument(name, type=float)
for name in ("--scale", "--ratio"):
    parser.add_argument(name, type=float, nargs=2)
parser.add_argument("--pretrained", action="store_true")
args = parser.parse_args()
mode = "RGB" if args.input_size[0] == 3 else "L"
train, validation = (
    create_dataset("", root=args.data_dir, split=split, input_img_mode=mode)
    for split in (args.train_split, args.val_split)
)
print("training", len(train), "validation", len(validation))
overlay = dict(file=args.pretrained_path, num_classes=-1)
model = create_model(
    args.model, args.pretrained, in_chans=args.input_size[0], num_classes=args.num_classes,
    pretrained_cfg_overlay=overlay if args.pretrained else None, **args.model_kwargs
)
loader = create_loader(
    train, tuple(args.input_size), 4, is_training=True, auto_augment=args.aa, num_workers=0,
    device=torch.device("cpu"), scale=args.scale, ratio=args.ratio, hflip=args.hflip,
    vflip=args.vflip, color_jitter=args.color_jitter
)
for images, labels in loader:
    print(images.shape, model(images).shape, labels.max() < args.num_classes)
"""


@pytest.mark.filterwarnings("ignore:.*<_io:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # timm leaves files open
@pytest.mark.parametrize("name", ["none", "randaugment", "mixup", "nfa"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_commands_for_timm(
    name: str,
    pretrained: bool,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The options are those of timm's train.py, which this stands for; its loader runs."""
    (here / "train.py").write_text(TRAIN)
    network = {"network": "test_resnet", "weights": "w.safetensors"} if pretrained else {}
    config = CompareConfig(rows=name, **network)
    (row,) = config.table()
    run_for_timm(row, config, (3, 32, 32), monkeypatch)
    said = capsys.readouterr().out
    assert "training 24 validation 12" in said
    assert "torch.Size([4, 3, 32, 32]) torch.Size([4, 3])" in said


@pytest.mark.filterwarnings("ignore:.*<_io:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # timm leaves files open
@pytest.mark.parametrize("name", ["none", "nfa"])
@pytest.mark.parametrize("channels", [1, 3])
def test_commands_for_timm_of_a_network_of_one_size(
    name: str,
    channels: int,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ViT is told the size of its images, which need not be squares, and may have one channel."""
    (here / "train.py").write_text(TRAIN)
    config = CompareConfig(rows=name, network="test_vit")
    (row,) = config.table()
    run_for_timm(row, config, (channels, 32, 48), monkeypatch)
    assert f"torch.Size([4, {channels}, 32, 48]) torch.Size([4, 3])" in capsys.readouterr().out


def run_for_timm(
    row: Row, config: CompareConfig, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands, in the folder of `here`."""
    reading = {"channels": shape[0], "on_error": "skip", "download": False, "data_dir": None}
    splits = ("data", "train", "val")
    commands = timm_commands(row, config, "data", reading, splits, shape, 3)
    assert len(commands) == 1 + bool(row.flow)
    for line in commands:
        program, *words = shlex.split(line)
        if program == "nfaug":
            words += ["--overwrite"] if words[0] == "fit" else []
            assert main(words) == 0
        else:
            monkeypatch.setattr("sys.argv", words)
            exec(compile(TRAIN, "train.py", "exec"), {"__name__": "__main__"})


def test_files_that_timm_reads() -> None:
    assert set(timm.data.get_img_extensions()) == TIMM_READS


@pytest.mark.parametrize(
    ("augment", "options"),
    [
        ("", "--hflip 0 --vflip 0 --color-jitter 0 --scale 1 1"),
        ("flip,crop", "--hflip 0.5 --vflip 0 --color-jitter 0 --scale 0.77 1"),
        ("rotate,colour", "--hflip 0.5 --vflip 0.5 --color-jitter 0.3 --scale 1 1"),
        ("spectrogram", "--hflip 0 --vflip 0 --color-jitter 0 --scale 0.77 1"),
    ],
)
def test_timm_has_what_keeps_the_class_and_no_more(augment: str, options: str) -> None:
    """Its defaults flip digits, and crop to 8% of an image."""
    config = CompareConfig(augment=augment)
    splits = ("data", "train", "val")
    (command,) = timm_commands(ROWS["none"], config, "data", {}, splits, (3, 8, 8), 3)
    assert f" {options} --ratio 1 1" in command


def test_rows_that_timm_cannot_train() -> None:
    splits = ("data", "train", "val")
    for name in ("frozen", "nfa+randaugment", "trivialaugment"):
        assert timm_commands(ROWS[name], CompareConfig(), "data", {}, splits, (3, 8, 8), 3) == []
    coloured = CompareConfig(augment="colour")  # which timm leaves out beside --aa
    assert timm_commands(ROWS["randaugment"], coloured, "data", {}, splits, (3, 8, 8), 3) == []


def test_the_flow_of_a_row_is_that_of_the_lines(here: Path) -> None:
    row = Row("builtin:rgb32", "randaugment")
    read = {"test_data": "other", "on_error": "skip", "data_dir": None, "download": True}
    config = CompareConfig(p=0.25, test_images=50, steps=10**6, device="cpu")
    command = example_command(row, config, "data", read, (32, 32))
    assert "--test-data other --on-error skip --download " in command
    assert "--test-images 50 --steps 1000000" in command
    assert "--row nfa+randaugment " in command
    assert "--checkpoint builtin:rgb32 --p 0.25" in command
    assert PIXELS not in command
