"""Run the examples that need no other library, on a tiny folder of images."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tools.libraries import needs
from tools.nfa import NAMES, checkpoint, write_images

import nfaug
from nfaug import Checkpoint, open_dataset
from nfaug.bank import Bank, make_bank
from nfaug.checkpoint.checkpoint import CheckpointConfig

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and six validation images of three classes."""
    return write_images(tmp_path_factory.mktemp("images"), SIZE, train=8, val=2)


@pytest.fixture(scope="module")
def fitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny flow of 8 x 8 pixels, fitted to the folder."""
    images = open_dataset(folder / "train", image_size=8)
    made = nfaug.fit(checkpoint().flow, images, rank=4, progress=False)
    return made.save(tmp_path_factory.mktemp("flow") / "fitted")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run an example; returns the printed lines, and the last line as a dictionary."""

    def run(name: str, *args: object) -> tuple[list[str], dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        lines = capsys.readouterr().out.splitlines()
        last = lines[-1] if lines[-1].startswith("{") else "{}"
        return lines, ast.literal_eval(last)

    return run


def test_resnet18(folder: Path, fitted: Path, run: Any) -> None:
    lines, stats = run(
        "resnet18_cifar10.py", folder, "--test-split", "val", "--checkpoint", fitted,
        "--img-size", 8, "--epochs", 2, "--batch-size", 8, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1", "epoch 2"]
    assert stats["seen"] == 48
    assert stats["applied"] + stats["gated"] == 24


# timm's reader does not close the shards that it opens.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_bank_as_webdataset(folder: Path, fitted: Path, run: Any, tmp_path: Path) -> None:
    from timm.data import create_dataset

    images = open_dataset(folder / "train", image_size=8)
    made = make_bank(nfaug.load(fitted), images, tmp_path / "bank", variants=2, progress=False)
    total, out = int(made.applied.sum()), tmp_path / "shards"
    assert total > 20
    lines, _ = run("bank_to_webdataset.py", made.path, out, "--per-shard", 20)
    assert lines == [f"{total} variants in {-(-total // 20)} shards"]
    split = json.loads((out / "_info.json").read_text())["splits"]["train"]
    assert sum(split["shard_lengths"]) == total
    data = open_dataset(out)
    assert data.classes == list(NAMES)
    for (row, variant), (image, label) in zip(np.argwhere(made.applied), data, strict=True):
        assert (image.permute(1, 2, 0).numpy() == made.variants[row, variant]).all()
        assert label == made.labels[row]
    reader = create_dataset("wds/bank", root=str(out), split="train", is_training=False)
    assert sorted(label for _, label in reader) == data.targets.tolist()
    del reader
    gc.collect()


# timm's reader does not close the files that it opens.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_swin(folder: Path, fitted: Path, run: Any, tmp_path: Path) -> None:
    images = open_dataset(folder / "train")
    make_bank(nfaug.load(fitted), images, tmp_path / "bank", variants=1, progress=False, gate=None)
    lines, shares = run(
        "swin_small_data.py", folder, "--bank", tmp_path / "bank", "--img-size", 32, "--width", 12,
        "--epochs", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert lines[0].startswith("epoch 1: loss ")
    assert shares["with_variants"] > 0.7, "all images with a partner of their class"


# timm's reader does not close the files that it opens.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jsd_bank(folder: Path, fitted: Path, tmp_path: Path, run: Any) -> None:
    images = open_dataset(folder / "train")
    make_bank(nfaug.load(fitted), images, tmp_path / "bank", variants=1, progress=False, gate=None)
    (line,), _ = run(
        "jsd_bank.py", folder / "train", "--bank", tmp_path / "bank", "--img-size", 16,
        "--epochs", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert re.fullmatch(r"epoch 1: loss \d\.\d+, views agree on \d+\.\d%", line)


def test_train_own_flow(folder: Path, run: Any, tmp_path: Path) -> None:
    out = tmp_path / "flow"
    lines, figures = run(
        "train_own_flow.py", folder / "train", "--out", out, "--img-size", 8, "--levels", 2,
        "--steps", 1, "--width", 8, "--epochs", 1,
    )  # fmt: skip
    assert lines[-2].startswith("an image of cat changed by ")
    assert figures == {"steps": 1}
    assert nfaug.load(out).config.classes == NAMES


# huggingface_hub 2.4 warns about its own call.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_fit_and_share(folder: Path, run: Any, tmp_path: Path, hub: Any) -> None:
    parts = checkpoint()
    flow = Checkpoint(parts.flow, CheckpointConfig(parts.flow.config)).save(tmp_path / "flow")
    out = tmp_path / "fitted"
    lines, stats = run(
        "fit_and_share.py", folder / "train", "--checkpoint", flow, "--rank", 4, "--out", out,
        "--push", "owner/flow",
    )  # fmt: skip
    assert stats["seen"] == 24
    assert stats["applied"] + stats["gated"] == 12
    assert "owner/flow" in lines[-2]
    assert hub.repos["owner/flow"].private
    assert nfaug.load("owner/flow").pca.has_memory
    assert nfaug.load(out).pca.has_memory


@pytest.mark.parametrize("gpus", [0, 0.5, 1])
def test_actors_of_ray_compute_on_the_gpu_that_they_reserve(
    gpus: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    flow = SimpleNamespace(codec=SimpleNamespace(image_size=(8, 8), channels=3))
    loaded = SimpleNamespace(flow=flow)

    def to(device: str) -> SimpleNamespace:
        devices.append(device)
        return loaded

    loaded.to = to
    monkeypatch.setattr(nfaug, "load", lambda _: loaded)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # which takes seconds to import
    module = runpy.run_path(str(EXAMPLES / "ray_bank.py"))
    maker = module["ShardMaker"](
        Namespace(checkpoint="x", data=str(folder / "train"), image_size=None, gpus=gpus)
    )
    assert devices == ["cuda" if gpus else "cpu"]
    assert maker.checkpoint is loaded


@pytest.mark.soak  # Ray takes half a minute to start on two cores
def test_ray_bank(folder: Path, fitted: Path, tmp_path: Path) -> None:
    """Two actors on this machine make the bank that one process makes."""
    needs("ray")
    words = ["--checkpoint", fitted, "--data", folder / "train", "--out", tmp_path / "bank"]
    words += ["--image-size", 16, "--shards", 3, "--actors", 2, "--batch-size", 4]
    words += ["--variants", 2]
    command = [sys.executable, EXAMPLES / "ray_bank.py", *words]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ran = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=os.environ | quiet
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-2:] == [
        "24 images in 3 shards",
        f"Bank('{tmp_path}/bank', 24 images, 2 variants each)",
    ]
    images = open_dataset(folder / "train", image_size=16)
    options: dict[str, Any] = {"variants": 2, "batch_size": 4, "progress": False}
    alone = make_bank(nfaug.load(fitted), images, tmp_path / "alone", **options)
    made = np.concatenate([shard.variants for shard in Bank(tmp_path / "bank").shards])
    assert (made == alone.variants).all()
