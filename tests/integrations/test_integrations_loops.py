"""The examples of other people's loops, run on a tiny folder with the libraries themselves."""

from __future__ import annotations

import ast
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from nfa_tools import NAMES, checkpoint, images_of
from PIL import Image

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 1)):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            images = images_of(torch.full((count,), label), seed=label, size=(24, 24))
            for number, image in enumerate(images):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))


def run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> dict[str, int]:
    """Run an example; returns the counters of its last line."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])


def test_torchvision(
    folder: Path,
    flow_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = run(
        "torchvision_loop.py", monkeypatch, capsys, folder, "--nfa", flow_dir, "--img-size", 32,
        "--epochs", 2, "--batch-size", 6, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert stats["seen"] == 24
    assert sum(stats.values()) == 24 + 12, "half of the images went through the flow"


# Lightning's own: what it calls of torch and what it would advise for a real run.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_lightning(
    folder: Path,
    flow_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # what a trainer writes unasked must not lie in the checkout
    stats = run(
        "lightning_module.py", monkeypatch, capsys, folder / "train", "--nfa", flow_dir,
        "--img-size", 32, "--epochs", 2, "--batch-size", 6, "--workers", 0,
    )  # fmt: skip
    assert stats["seen"] == 24
    assert sum(stats.values()) == 24 + 12


def test_hugging_face(
    folder: Path,
    flow_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = run(
        "hf_trainer.py", monkeypatch, capsys, folder / "train", "--nfa", flow_dir, "--img-size",
        32, "--epochs", 2, "--batch-size", 6, "--out", tmp_path / "out",
    )  # fmt: skip
    assert stats["seen"] == 24, "twelve images an epoch in training, none in evaluation"
    assert sum(stats.values()) == 24 + 12


@pytest.fixture
def splits(folder: Path, tmp_path: Path) -> Path:
    """The folder with a test split, as `datasets` names it."""
    for split, source in (("train", "train"), ("test", "val")):
        shutil.copytree(folder / source, tmp_path / "data" / split)
    return tmp_path / "data"


@pytest.mark.parametrize("where", ["collator", "transform"])
def test_hugging_face_datasets(
    where: str,
    splits: Path,
    flow_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both places augment the training images alone, in whole batches."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    stats = run(
        "hf_datasets.py", monkeypatch, capsys, splits, "--nfa", flow_dir, "--where", where,
        "--img-size", 32, "--epochs", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert stats["seen"] == 24, "twelve images an epoch in training, none in evaluation"
    assert stats["no_partner"] == 0
    assert 0 <= stats.pop("accuracy") <= 1
    assert sum(stats.values()) == 24 + 12
