"""A folder of images and the flow that is fitted to their classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nfa_tools import NAMES, checkpoint, images_of
from PIL import Image

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and six validation images of three classes. Read only."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            images = images_of(torch.full((count,), label), seed=label, size=(24, 24))
            for number, image in enumerate(images):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))
