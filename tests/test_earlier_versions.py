"""Banks that nfaug 0.1.0 wrote still serve images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nfaug.bank import BankDataset
from nfaug.training import open_dataset

DATA = Path(__file__).parent / "data"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the bank was made in, as working directory."""
    for name in ("images", "bank"):
        shutil.copytree(DATA / f"{name}_v1", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bank_serves_its_variants(folder: Path) -> None:
    images = open_dataset("images", channels=1)
    bank = BankDataset(images, "bank", p=1.0)
    stored = np.load("bank/variants.npy")
    variant, label = bank[5]
    assert label == images[5][1]
    assert any((np.asarray(variant) == stored[5, v, ..., 0]).all() for v in range(2))
