"""The parser of every command: hyphens in option names, and errors in plain sentences."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveInt

__all__ = ["CommandParser"]

_WORDS = {
    int: ("a whole number", "whole numbers"),
    PositiveInt: ("a whole number above 0", "whole numbers above 0"),
    float: ("a number", "numbers"),
    str: ("text", "names"),
    bool: ("true or false", "values true or false"),
    type(None): ("null", "nulls"),
}


_WRITTEN = ("out", "export")  # paths; shells do not expand the ~ of --out=~/run


class _Help(DefaultHelpFormatter):
    """Option texts with their default, and without Python types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, re.sub(r"\bNone\b", "null", action.help or "")
        if action.required:
            return f"{text} (required)"
        if action.nargs == 0:  # a switch
            return text
        if default is None or default == argparse.SUPPRESS or isinstance(default, Namespace):
            return text
        shown = default if isinstance(default, str) else json.dumps(default)
        return f"{text} (default: {shown})".replace("%", "%%")


class CommandParser(ArgumentParser):
    """An argument parser whose options have hyphens: `--max-minutes`, `--dataset.per-class`.

    Names with underscores are accepted too. Abbreviated options are not.
    """

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": _Help, "allow_abbrev": False, **options}
        super().__init__(print_config="--print-config", **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None, **options: Any
    ) -> Namespace:
        self._use_hyphens()
        parsed = super().parse_args(self._normalize(args or ()), namespace, **options)
        for group in self.groups or ():  # dataclasses; a file can give them any value
            if not isinstance(parsed.get(group, Namespace()), Namespace):
                self.error(f"{group} must be a mapping of settings; got {parsed[group]!r:.80}")
        for name in _WRITTEN:
            if isinstance(path := parsed.get(name), str):
                parsed[name] = os.path.expanduser(path)
        return parsed

    def format_help(self, *formatter: Any) -> str:
        self._use_hyphens()
        return super().format_help(*formatter)

    def format_usage(self, *formatter: Any) -> str:
        self._use_hyphens()
        return super().format_usage(*formatter)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(self._explain(message), ex)

    def _use_hyphens(self) -> None:
        """Rename the options that jsonargparse named after dataclass fields."""
        for action in self._actions:
            hyphenated = (name.replace("_", "-") for name in action.option_strings)
            action.option_strings = list(dict.fromkeys(hyphenated))
        known = {name.replace("_", "-"): found for name, found in self._options.items()}
        self._options.clear()
        self._options.update(known)

    @property
    def _options(self) -> dict[str, argparse.Action]:
        return self._option_string_actions

    def _normalize(self, words: Iterable[str]) -> list[str]:
        """Put hyphens into known options; unknown ones stay as typed, for the error message."""
        result = []
        for word in words:
            name, equals, value = word.partition("=")
            hyphenated = name.replace("_", "-")
            known = name.startswith("--") and hyphenated.removesuffix("+") in self._options
            result.append(f"{hyphenated}{equals}{value}" if known else word)
        return result

    def _explain(self, message: str) -> str:
        """Replace types, dictionary keys and union errors in jsonargparse's messages."""
        message = message.strip()
        if found := re.fullmatch(r"the following arguments are required: (.+)", message):
            names = [self._option(name) for name in found[1].split(", ")]
            return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} required"
        if found := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            return f"{found[1]} has no setting {found[2]!r}{self._hint(f'{found[1]}.{found[2]}')}"
        if found := re.search(r"Option '(.+)' is not accepted", message):
            return f"there is no setting {found[1]!r}{self._hint(found[1])}"
        if found := re.fullmatch(r"unrecognized arguments: (\S+)(.*)", message):
            return f"there is no option {found[1]}{self._hint(found[1].partition('=')[0])}"
        keys = re.findall(r'Parser key "([^"]+)"', message)
        if not keys:
            return message
        file = re.search(r"Unable to load config '([^']+\.ya?ml)'", message)
        where = f" (in {file[1]})" if file else ""
        value = re.search(r"(?:Got|Given) value: (.*)\Z", message, re.DOTALL)
        action = next((action for action in self._actions if action.dest == keys[-1]), None)
        hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
        if value is None or hint is None:
            reason = re.split(r'Parser key "[^"]+"(?: element \d+)?:', message)[-1].strip()
            return f"{self._option(keys[-1])}: {reason[:1].lower()}{reason[1:]}{where}"
        given = value[1].strip().split("\n")[0]
        return f"{self._option(keys[-1])} must be {_kind(hint)}; got {given!r}{where}"

    def _option(self, dest: str) -> str:
        """The option of a destination as a user types it."""
        names = (name for a in self._actions if a.dest == dest for name in a.option_strings)
        return next((name for name in names if name.startswith("--")), dest)

    def _hint(self, name: str) -> str:
        """A suggestion of the closest option, or of the closest setting for a file."""
        option = f"--{name.lstrip('-').replace('_', '-')}"
        for close in difflib.get_close_matches(option, [*self._options], 1):
            return f"; did you mean {close if name[0] == '-' else self._options[close].dest}?"
        return ""


def _kind(hint: Any, *, plural: bool = False) -> str:
    """A type in words."""
    if hint in _WORDS:
        return _WORDS[hint][plural]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(", ".join(map(repr, parts)).rsplit(", ", 1))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts)
    if get_origin(hint) in (tuple, list):
        item = _kind(parts[0], plural=True)
        fixed = get_origin(hint) is tuple and parts[-1] is not Ellipsis
        return f"a list of {len(parts)} {item}" if fixed else f"a list of {item}"
    return "a mapping of settings"
