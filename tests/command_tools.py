"""Run `nfaug` commands in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nfaug.cli import main

__all__ = ["Ran", "run_main"]


class Ran(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


def run_main(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Ran:
    """The exit status and the output of a command."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:  # parsers exit this way
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)
