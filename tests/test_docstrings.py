"""The examples in docstrings run, and each setting has its line in the help of the commands."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest
import torch

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.flows.mef import MefConfig

SOURCE = Path(__file__).resolve().parent.parent / "src"
# What the API reference says that its examples assume.
NAMES = {"PIL": PIL, "nfaug": nfaug, "torch": torch}


def modules() -> list[str]:
    """The modules whose source has an example."""
    found = []
    for path in sorted((SOURCE / "nfaug").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found.append(".".join(name for name in parts if name != "__init__"))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=NAMES, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("documented", "names"),
    [
        (MixConfig, [field.name for field in dataclasses.fields(MixConfig)]),
        (MefConfig, [field.name for field in dataclasses.fields(MefConfig)]),
    ],
)
def test_each_setting_has_an_entry(documented: type, names: Sequence[str]) -> None:
    doc = inspect.cleandoc(documented.__doc__ or "")
    assert [name for name in names if f"\n    {name}: " not in doc] == []
