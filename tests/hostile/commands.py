"""Commands of nfaug, run in this process or in a child of it, for attacks."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from nfaug.cli import main
from nfaug.training import train  # noqa: F401 - once, and not in every child process

__all__ = ["command_words", "run_command", "start_command"]

SMALL = ("--flow.steps=[1,1]", "--flow.blocks=[1,1]", "--pca.rank=4", "--batch-size=8")


def command_words(data: Path, flow: Path) -> dict[str, list[str]]:
    """The words of commands that write: to fit, make a bank, train, and pull from a cache."""
    given = f"--data={data}"
    return {
        "fit": ["fit", f"--checkpoint={flow}", given, "--rank=3", "--overwrite"],
        "bank": ["bank", f"--checkpoint={flow}", given, "--variants=30", "--batch-size=2"],
        "train": ["train", given, *SMALL, "--epochs=12", "--checkpoint-minutes=1e-9"],
        "pull": ["pull", "owner/flow", "--overwrite"],
    }


def run_command(words: list[str]) -> int:
    """Run a command quietly, and return its exit status."""
    with suppress(SystemExit), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        return main(words)
    return 2


def start_command(words: list[str]) -> int:
    """Start a command in a child process; return its id."""
    child = os.fork()
    if child:
        return child
    with suppress(BaseException):
        os._exit(run_command(words))
    os._exit(1)
