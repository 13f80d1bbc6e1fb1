"""The parser of every command: hyphens in option names, defaults in the help, one-line errors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from ..io.text import printable

__all__ = ["CommandParser"]

_load_yaml = get_loader("yaml")


def _without_aliases(text: str) -> Any:
    """Load YAML without its aliases: a few lines of them stand for millions of values."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise yaml.YAMLError("settings cannot have YAML aliases (*name)")
    return _load_yaml(text)


set_loader("yaml", _without_aliases, (yaml.YAMLError,))


class CommandParser(ArgumentParser):
    """An argument parser whose options have hyphens: `--max-minutes`, `--dataset.per-class`."""

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": argparse.HelpFormatter, "allow_abbrev": False, **options}
        super().__init__(print_config="--print-config", **options)

    # jsonargparse gives this method to its groups as well, and there it sees only module globals.
    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument as jsonargparse does, named with hyphens and with its default shown."""
        own = dataclasses.is_dataclass(options.get("type"))  # its fields come one by one
        if own or options.get("help") == argparse.SUPPRESS:  # options of jsonargparse
            return super().add_argument(*names, **options)
        hyphened = [name.replace("_", "-") if name[:2] == "--" else name for name in names]
        if "help" in options:
            options["help"] = _described(**options)
        added = super().add_argument(*hyphened, **options)
        if added.metavar is added.choices is None and added.nargs != 0 and added.option_strings:
            added.metavar = added.dest.rpartition(".")[2].upper()
        return added

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None, **options: Any
    ) -> Namespace:
        parsed = super().parse_args(args, namespace, **options)
        for group in self.groups or ():  # a settings file can give a dataclass any value
            if not isinstance(parsed.get(group, Namespace()), Namespace):
                self.error(f"{group} must be a mapping of settings; got {parsed[group]!r:.80}")
        if isinstance(path := parsed.get("out"), str):  # shells do not expand the ~ of --out=~/run
            parsed.out = os.path.expanduser(path)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 after the message in one line."""
        line = re.sub(r"<class '(.*?)'>", r"\1", " ".join(printable(message).split()))
        self.exit(2, f"{self.prog}: error: {line} (see {self.prog} --help)\n")


def _described(help: str, default: Any = None, required: bool = False, **_: Any) -> str:
    """A help text with the default."""
    text = re.sub(r"\bNone\b", "null", " ".join(help.split()))
    if required:
        text = f"{text} (required)"
    elif default is not None and default != argparse.SUPPRESS:
        shown = default if isinstance(default, str) else json.dumps(default)
        text = f"{text} (default: {shown})"
    return text.replace("%", "%%")
