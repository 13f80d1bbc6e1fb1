"""A tiny autoencoder, and photographs for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tools.autoencoder import make_autoencoder
from tools.nfa import NAMES, TensorImages, images_of

from nfaug.flows import tiny_autoencoder


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of random weights change images by less than bfloat16 rounds."""
    monkeypatch.setattr(tiny_autoencoder, "has_matrix_units", lambda: False)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_autoencoder(tmp_path_factory.mktemp("autoencoders") / "tiny")


@pytest.fixture(scope="session")
def photos() -> TensorImages:
    """24 RGB images of 64 x 64 pixels in three classes, finely grained."""
    labels = torch.arange(24) % 3
    return TensorImages(images_of(labels, size=(64, 64)), labels, NAMES)
