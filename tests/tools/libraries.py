"""Libraries that the extra `test` leaves out: what needs one is skipped where it is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import pytest

__all__ = ["ALL", "OPTIONAL", "missing_libraries", "needs"]

#: The variable that CI sets: a missing library is then a failure.
ALL = "NFAUG_ALL"
OPTIONAL = (
    "albumentations",
    "datasets",
    "diffusers",
    "gradio",
    "ipykernel",
    "kornia",
    "lightning",
    "nbclient",
    "nbformat",
    "playwright",
    "ray",
    "transformers",
)


def missing_libraries() -> list[str]:
    """Those that are not installed."""
    return [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def needs(*libraries: str) -> Any:
    """Import optional libraries and return the first; if one is missing, skip the test or module.

    With NFAUG_ALL=1 a missing one is an error.
    """
    assert set(libraries) <= {*OPTIONAL}, f"{libraries} are among what the tests install"
    for name in libraries:
        if os.environ.get(ALL) != "1":
            pytest.importorskip(name, reason=f"{name} is not installed")
        importlib.import_module(name)
    return importlib.import_module(libraries[0])
