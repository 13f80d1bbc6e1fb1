"""Run `nfaug` commands in this process, or only parse them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nfaug.cli import main
from nfaug.commands import COMMANDS

__all__ = ["PHASES", "Ran", "check_options", "run_main"]

# How lines begin that are no errors: of phases of more than a second, and of the device.
PHASES = ("loading", "opening", "computing")


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


def check_options(arguments: list[str], line: str) -> None:
    """Parse the arguments of `nfaug` without running anything."""
    if arguments == ["--version"]:
        return
    verb, *options = arguments or [""]
    assert verb in COMMANDS, f"nfaug has no command {verb!r}: {line}"
    module = importlib.import_module(f"nfaug.commands.{verb}")
    try:
        # `expand` replaces the name of a recipe by its file, as in nfaug.cli.main.
        words = module.expand(options) if hasattr(module, "expand") else options
        module.parser().parse_args(words)
    except (SystemExit, ValueError) as stop:
        raise AssertionError(f"nfaug does not parse: {line}") from stop
