"""The benchmarks of banks run at a small size."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nfa_tools import NAMES, checkpoint, images_of
from PIL import Image
from safetensors.torch import save_file

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.soak  # each starts several processes, or trains


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = checkpoint()
    made = Checkpoint(parts.flow, CheckpointConfig(parts.flow.config))
    return made.save(tmp_path_factory.mktemp("flow") / "flow")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of each of three classes."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(NAMES):
        (root / name).mkdir()
        drawn = images_of(torch.full((24,), label), seed=label, size=(64, 64))
        for number, image in enumerate(drawn):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / name / f"{number}.png")
    return root


def printed(script: str, *words: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_processes_give_the_files_of_one(flow: Path) -> None:
    small = ["--flow", flow, "--classes", 6, "--per-class", 48, "--rounds", 1]
    out = printed("bank_scale.py", "--part", "ranks", *small)
    rows = [line for line in out.splitlines() if line.startswith(("| bank", "| fit"))]
    assert len(rows) == 6
    assert all("identical" in row for row in rows if row.startswith("| bank"))
    assert "DIFFERENT" not in out


def test_other_tensors_are_called_different(tmp_path: Path) -> None:
    module = runpy.run_path(str(BENCHMARKS / "bank_scale.py"))
    for folder, shift in (("one", 0.0), ("near", 1e-7), ("far", 1e-4)):
        (tmp_path / folder).mkdir()
        for name in ("pca", "gaussians"):
            tensors = {"x": torch.ones(3, dtype=torch.float64) + shift}
            save_file(tensors, tmp_path / folder / f"{name}.safetensors")
    for folder, text in (("one", "identical"), ("near", "within 1e-07"), ("far", "DIFFERENT")):
        difference = module["fit_difference"](tmp_path / "one", tmp_path / folder)
        assert text in module["fit_result"](difference)


def test_a_killed_process_continues(flow: Path) -> None:
    small = ["--flow", flow, "--classes", 6, "--per-class", 100]
    out = printed("bank_scale.py", "--part", "killed", *small)
    assert "process 1 was killed; torchrun ended with 1" in out
    assert "'shard-00001-of-00002': 296" not in out, "it was killed in the middle"
    assert "600 images: identical to one process" in out


def test_a_bank_in_eight_shards(flow: Path) -> None:
    small = ["--flow", flow, "--classes", 6, "--per-class", 100]
    out = printed("bank_scale.py", "--part", "imagenet", *small)
    assert "| images | 600 of 6 classes, 4 variants, 8 shards |" in out
    assert "771 GB" in out


@pytest.mark.parametrize("part", ["loader", "accuracy"])
def test_residual_banks(flow: Path, images: Path, part: str) -> None:
    small = ["--per-class", 22, "--rounds", 1, "--epochs", 1, "--seeds", 1]
    data = ["--data", images, "--test-data", images]
    out = printed("residual_bank.py", "--part", part, "--flow", flow, *data, *small)
    assert f"| {'residual' if part == 'loader' else 'residual bank'} | " in out
