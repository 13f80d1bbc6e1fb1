"""A Hugging Face data set, from nfaug.fit to transformers' Trainer."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "hugging_face.py"


def test_from_fit_to_the_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has imported transformers for the example of its Trainer."""
    runpy.run_path(str(SCRIPT))["main"](str(tmp_path / "out"))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["classes"] == ["night", "dusk", "day"]
    assert found["steps"] == 8
    assert found["seen"] == found["applied"] == 48
