"""nfaug completion."""

from __future__ import annotations

import importlib

from jsonargparse import ArgumentParser, Namespace

from . import COMMANDS, TOPICS
from .parser import new_parser

_FOLDER = "~/.local/share/bash-completion/completions"


def parser() -> ArgumentParser:
    """Options of `nfaug completion`."""
    parser = new_parser(
        "completion",
        "Print a script for your shell, with which the Tab key completes commands, options and "
        "their values. Make it again after an update of nfaug.",
        f"Bash reads it from {_FOLDER}/nfaug, if the package bash-completion is installed. For "
        "zsh, write it to a file _nfaug in a folder of $fpath.",
        usage="bash|zsh",
        example=f"nfaug completion bash > {_FOLDER}/nfaug",
    )
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell: bash or zsh")
    return parser


def run(arguments: Namespace) -> str:
    """The script for the shell."""
    top = ArgumentParser(prog="nfaug")
    commands = top.add_subcommands()
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"{__package__}.{name}")
        commands.add_subcommand(name, module.parser(), help=text)
    help_parser = ArgumentParser()
    help_parser.add_argument("topic", nargs="?", choices=[*COMMANDS, *TOPICS])
    commands.add_subcommand("help", help_parser, help="explain a command")
    return top.get_completion_script(f"shtab-{arguments.shell}")
