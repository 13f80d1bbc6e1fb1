"""A folder of images and the flow that is fitted to their classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.nfa import NAMES, checkpoint, write_images

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and six validation images of three classes. Read only."""
    return write_images(tmp_path_factory.mktemp("images"), 24, train=4, val=2)


@pytest.fixture(scope="session")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, classes=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))
