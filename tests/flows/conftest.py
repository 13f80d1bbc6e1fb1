"""An autoencoder of each class, and photographs for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from autoencoder_tools import SETTINGS, make_autoencoder
from nfa_tools import NAMES, TensorImages, images_of

from nfaug.flows import tiny_autoencoder


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of random weights change images by less than bfloat16 rounds."""
    monkeypatch.setattr(tiny_autoencoder, "has_matrix_units", lambda: False)


@pytest.fixture(scope="session")
def autoencoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each class."""
    folder = tmp_path_factory.mktemp("autoencoders")
    return {kind: make_autoencoder(folder / kind.lower(), kind) for kind in SETTINGS}


@pytest.fixture(scope="session")
def autoencoder(autoencoders: dict[str, Path]) -> Path:
    return autoencoders["AutoencoderKL"]


@pytest.fixture(scope="session")
def photos() -> TensorImages:
    """24 RGB images of 64 x 64 pixels in three classes, finely grained."""
    labels = torch.arange(24) % 3
    return TensorImages(images_of(labels, size=(64, 64)), labels, NAMES)
