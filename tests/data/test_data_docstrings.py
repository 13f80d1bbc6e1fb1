"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib

import PIL.Image
import pytest
import torch

import nfaug


@pytest.mark.parametrize(
    "module",
    [
        "nfaug.data.images",
        "nfaug.data.open",
        "nfaug.data.torch_datasets",
        "nfaug.fitting",
        "nfaug.integrations.timm.transforms",
        "nfaug.integrations.torchvision",
    ],
)
def test_examples(module: str) -> None:
    names = {"PIL": PIL, "nfaug": nfaug, "torch": torch}
    results = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert results.attempted > 1
    assert results.failed == 0
