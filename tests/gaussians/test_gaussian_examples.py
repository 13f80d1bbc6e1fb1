from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["gaussians", "statistics", "fixed_point.solver"])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"nfaug.gaussians.{name}")
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0
