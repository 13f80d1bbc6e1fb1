"""The command line of nfaug, for tests of what documents and examples say."""

from __future__ import annotations

import importlib

from nfaug.commands import COMMANDS


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
