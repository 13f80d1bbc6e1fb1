"""Every form of train.py and of the commands for timm, as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from nfa_tools import write_images
from safetensors.torch import save_file

from nfaug.cli import main
from nfaug.compare import CompareConfig
from nfaug.compare.report.script import Source, script_of, timm_lines
from nfaug.compare.rows import PIXELS, Row, rows_of
from nfaug.compare.work import Strength

STRENGTH = Strength(0.25, 14)
SMALL = ("none", "randaugment", "trivialaugment", "nfa", "nfa+randaugment")
FOLDERS = Source((3, 32, 32), 3, "data/train", "data/test")
HELD_OUT = Source((3, 32, 32), 3, "data/train")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of three classes, which is the current one."""
    write_images(tmp_path / "data", 32, train=8, test=4)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def ran(row: Row, settings: CompareConfig, source: Source, capsys: Any) -> str:
    """What the script of a row prints."""
    script = script_of(row, "the title", STRENGTH, settings, source)
    strong = bool(row.flow) or (row.frozen and bool(row.policy))
    assert ("p=0.25" in script or "P = 0.25" in script) == strong
    assert ("RandAugment(2, 14)" in script) == (row.policy == "randaugment")
    exec(compile(script, "train.py", "exec"), {"__name__": "__main__"})
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("name", [*SMALL, "specaugment", "nfa+specaugment", "nfa+trivialaugment"])
def test_small_networks(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    augment = "spectrogram" if "spec" in name else "crop,flip,colour"
    settings = CompareConfig(rows=name, augment=augment, steps=2)
    for row in settings.table():
        assert "accuracy" in ran(row, settings, FOLDERS, capsys)
    assert (here / "classifier.pt").exists()


@pytest.mark.parametrize("name", ["none", "nfa+randaugment"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_timm_models(
    name: str, pretrained: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "w.safetensors" if pretrained else None
    settings = CompareConfig(
        network="test_resnet", weights=weights, rows=name, augment="rotate", steps=2
    )
    for row in settings.table():
        assert "accuracy" in ran(row, settings, HELD_OUT, capsys)


@pytest.mark.parametrize("name", ["frozen", "frozen+randaugment", "frozen+specaugment"])
@pytest.mark.parametrize("source", [FOLDERS, HELD_OUT], ids=["test", "held-out"])
def test_frozen_features(
    name: str, source: Source, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = CompareConfig(network="test_resnet", weights="w.safetensors", rows=name)
    (row,) = settings.table()
    assert "accuracy" in ran(row, settings, source, capsys)


def test_frozen_features_of_variants(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = CompareConfig(network="test_resnet", weights="w.safetensors", rows="frozen+nfa")
    (row,) = settings.table()
    assert "accuracy" in ran(row, settings, FOLDERS, capsys)


@pytest.mark.parametrize("name", ["none", "nfa", "nfa+randaugment"])
def test_data_that_are_no_folders(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source((1, 8, 8), 10, "digits", None, folders=False)
    settings = CompareConfig(rows=name, steps=2)
    (row,) = settings.table()
    assert "accuracy" in ran(row, settings, source, capsys)
    both = source._replace(test="digits")
    assert "accuracy" in ran(row, settings, both, capsys)


def test_grey_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = CompareConfig(steps=2)
    assert "accuracy" in ran(Row(PIXELS), settings, Source((1, 32, 32), 3, "data/train"), capsys)


TRAIN = """
import argparse

import torch
from timm.data import create_dataset, create_loader

parser = argparse.ArgumentParser()
for name in ("--data-dir", "--model", "--aa", "--pretrained-path"):
    parser.add_argument(name)
for name in ("--num-classes", "--img-size"):
    parser.add_argument(name, type=int)
parser.add_argument("--pretrained", action="store_true")
args = parser.parse_args()
data = create_dataset("", root=args.data_dir, split="train", is_training=True)
size = (3, args.img_size, args.img_size)
loader = create_loader(
    data, size, 4, is_training=True, auto_augment=args.aa, num_workers=0,
    device=torch.device("cpu")
)
for images, labels in loader:
    print(images.shape, labels.max() < args.num_classes)
"""


@pytest.mark.filterwarnings("ignore:.*<_io:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # timm leaves files open
@pytest.mark.parametrize("name", ["none", "randaugment", "nfa"])
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
    settings = CompareConfig(rows=name, **network)
    (row,) = settings.table()
    for line in timm_lines(row, STRENGTH, settings, FOLDERS):
        program, *words = shlex.split(line)
        if program == "nfaug":
            assert main(words) == 0, capsys.readouterr().err
        else:
            monkeypatch.setattr("sys.argv", words)
            exec(compile(TRAIN, "train.py", "exec"), {"__name__": "__main__"})
    assert "torch.Size([4, 3, 32, 32])" in capsys.readouterr().out


def test_rows_that_timm_cannot_train() -> None:
    rows = rows_of(["frozen", "nfa+randaugment", "trivialaugment"], [PIXELS])
    assert len(rows) == 3
    for row in rows:
        assert timm_lines(row, STRENGTH, CompareConfig(), FOLDERS) == []
