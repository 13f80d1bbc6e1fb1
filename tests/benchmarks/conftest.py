"""Tiny data and flows for the tests of the study."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nfa_tools import CLASSES, NAMES, images_of

from benchmarks.study import banks, data, flows
from benchmarks.study.data import DataSet
from nfaug.data.images import TensorImages
from nfaug.training import TrainConfig


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """60 images of each class in memory; 20 of them are for validation."""
    labels = torch.arange(60 * CLASSES) % CLASSES
    images = TensorImages(images_of(labels, channels=1), labels, NAMES)
    monkeypatch.setattr(data, "training_images", lambda _: images)
    for module in (data, flows):
        monkeypatch.setattr(module, "unlabelled_images", lambda _: images)
    return DataSet("tiny", "", validation=20)


@pytest.fixture
def small_flows(monkeypatch: pytest.MonkeyPatch, tiny_config: TrainConfig) -> None:
    config = replace(flows._CONFIG, flow=tiny_config.flow, batch_size=6)
    monkeypatch.setattr(flows, "_CONFIG", config)
    for name, kind in flows.FLOWS.items():
        monkeypatch.setitem(flows.FLOWS, name, replace(kind, steps=2))
    monkeypatch.setattr(banks, "VARIANTS", 2)
