"""A class of one image: fit, bank, timm and albumentations go on without partners for it."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no version check over the network

import pytest
import torch
from nfa_tools import NAMES, images_of, tiny_flow
from torch.utils.data import DataLoader

import nfaug
from nfaug.augment.transform import NFAugment
from nfaug.bank.make import make_bank
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import TensorImages
from nfaug.integrations.albumentations import NFATransform
from nfaug.integrations.timm import NFALoader

LABELS = torch.tensor([0] * 6 + [1] + [2] * 6)
IMAGES = TensorImages(images_of(LABELS), LABELS, NAMES)
SINGLE = 6


@pytest.fixture(scope="module")
def fitted() -> Checkpoint:
    with pytest.warns(UserWarning, match="'dog'"):
        return nfaug.fit(tiny_flow(), IMAGES, rank=3, progress=False)


def test_bank(fitted: Checkpoint, tmp_path: Path) -> None:
    bank = make_bank(fitted, IMAGES, tmp_path / "bank", variants=2, gate=False, progress=False)
    assert not bank.applied[SINGLE].any()
    assert bank.applied[0].all()


def test_timm(fitted: Checkpoint) -> None:
    nfa = NFAugment(fitted, p=1.0, gate=False)
    batches = list(NFALoader(DataLoader(IMAGES, batch_size=13), nfa))
    assert torch.equal(batches[0][0][SINGLE], IMAGES.images[SINGLE])
    assert nfa.stats()["no_partner"] == 1


def test_albumentations(fitted: Checkpoint, tmp_path: Path) -> None:
    transform = NFATransform(str(fitted.save(tmp_path / "flow")), p=1.0, gate=False)
    image = IMAGES.images[SINGLE].permute(1, 2, 0).numpy()
    assert (transform(image=image, label=1)["image"] == image).all()
    other = IMAGES.images[0].permute(1, 2, 0).numpy()
    assert (transform(image=other, label=0)["image"] != other).any()
