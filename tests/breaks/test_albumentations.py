"""Breaks of the adapter to albumentations."""

from __future__ import annotations

import os
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no version check over the network

import numpy as np
import pytest
from tools.libraries import needs
from tools.nfa import NAMES, checkpoint

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig

albumentations = needs("albumentations")
NFATransform = nfaug.integrations.albumentations.NFATransform


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, classes=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))


def pictures(*shape: int) -> np.ndarray:
    return np.full(shape, 128, np.uint8)


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    "given",
    [
        {"images": pictures(4, 8, 8, 3)},
        {"volume": pictures(4, 8, 8, 3)},
        {"volumes": pictures(2, 4, 8, 8, 3)},
        {"image": pictures(8, 8, 3), "images": pictures(4, 8, 8, 3)},
        {"image": pictures(8, 8, 3), "mask": pictures(8, 8)},
    ],
    ids="+".join,
)
def test_what_albumentations_would_pass_on_unchanged(
    given: dict[str, Any], p: float, flow_dir: str
) -> None:
    """Break 50: several images and volumes came back as they were, without a word."""
    pipeline = albumentations.Compose([NFATransform(flow_dir, p=p)])
    with pytest.raises(ValueError, match=[*given][-1]):
        pipeline(label=1, **given)


def test_a_mask_by_another_name(flow_dir: str) -> None:
    """Break 50: albumentations' `additional_targets` are the same in other words."""
    transform = NFATransform(flow_dir, p=1.0)
    with pytest.raises(ValueError, match="outline: mask"):
        albumentations.Compose([transform], additional_targets={"outline": "mask"})
    pipeline = albumentations.Compose([transform], additional_targets={"second": "image"})
    image = pictures(8, 8, 3)
    assert {*pipeline(image=image, second=image, label=1)} == {"image", "second", "label"}


def test_the_share_among_settings(flow_dir: str) -> None:
    """Break 71: of p and settings the adapters used one and ignored the other."""
    with pytest.raises(ValueError, match="config="):
        NFATransform(flow_dir, config={"p": 0.9})
