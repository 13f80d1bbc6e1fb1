"""A Hugging Face data set, from nfaug.fit to transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_from_fit_to_the_trainer(run: Callable[..., Any], tmp_path: Path) -> None:
    found = run("hugging_face.py", tmp_path / "out")
    assert found["classes"] == ["night", "dusk", "day"]
    assert found["steps"] == 8
    assert found["seen"] == found["applied"] == 48
