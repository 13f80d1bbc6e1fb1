"""Shared by the tests of the Hub: a checkpoint with all parts, and the client's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from nfa_tools import NAMES, batch_of
from nfa_tools import checkpoint as parts

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.classes.gaussians import ClassGaussians
from nfaug.hub import push_to_hub

__all__ = [
    "KEEPS_PARTS",
    "REPO",
    "RUNTIME",
    "TENSORS",
    "augmented",
    "cached",
    "damage",
    "made",
    "mine",
    "pushed",
    "snapshot_names",
]

REPO = "owner/flow"
TENSORS = ["gaussians.safetensors", "model.safetensors", "pca.safetensors"]
RUNTIME = sorted(["config.json", *TENSORS])
KEEPS_PARTS = huggingface_hub.__version__.startswith("1.")  # and resumes them the next time


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all parts, beside files that must not be pushed. Read only."""
    folder = tmp_path_factory.mktemp("made") / "flow"
    found = parts()
    assert found.pca is not None
    gaussians = ClassGaussians(
        found.pca.mean.clone(), torch.ones_like(found.pca.mean), found.pca.counts.clone()
    )
    config = CheckpointConfig(
        found.flow.config,
        class_names=NAMES,
        training={"images": 120, "epochs": 3, "lr": 0.01},
        metrics={"bits_per_dim": 3.25, "nf_acc": 0.75, "exact": 1.0, "on": "24 held-out images"},
    )
    Checkpoint(found.flow, config, gaussians, found.pca).save(folder)
    (folder / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n picture")
    (folder / "optimizer.safetensors").write_bytes(b"state")
    (folder / "log.csv").write_text("loss\n")
    for inner in ("training", "state"):  # a decoy with the names of files that are pushed
        (folder / inner).mkdir()
        for name in ("config.json", "model.safetensors", "state.safetensors"):
            (folder / inner / name).write_bytes(b"state")
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mine"))


@pytest.fixture
def pushed(hub: LoopbackHub, made: Path) -> LoopbackHub:
    push_to_hub(made, REPO)
    hub.requests.clear()
    return hub


def cached() -> list[str]:
    """Return the names of all complete and partial files in the client's cache."""
    found = Path(constants.HF_HUB_CACHE).rglob("*")
    return sorted(
        path.name
        for path in found
        if path.is_file()
        and ({"blobs", "snapshots"} & set(path.parts) or "incomplete" in path.name)
    )


def snapshot_names() -> list[str]:
    found = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*")
    return sorted(path.name for path in found)


def augmented(where: str | Path) -> torch.Tensor:
    nfa = nfaug.NFAugment.from_pretrained(where, p=1.0, generator=torch.Generator().manual_seed(3))
    images, labels = batch_of(16)
    return nfa(images, labels)[0]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.resolve().write_bytes(data)
