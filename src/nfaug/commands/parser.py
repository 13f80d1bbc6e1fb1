"""The parser of a command: options with hyphens, help with an example, errors of one line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from ..io.documentation import documentation
from ..io.numbers import MOST, SEEDS
from ..io.text import did_you_mean, printable
from .messages import hyphened, in_plain_words

_LONGEST_ERROR = 2000  # characters
_DEEPEST = 100  # lists and mappings within each other
_YAML = "yaml without aliases"  # the mode of our parsers; that of others stays as it is
_load_yaml = get_loader("yaml")
_OPTION = re.compile(r"^  (?:-\w(?: \w+)?, )?(--[a-z][\w.-]*)", re.MULTILINE)
# Options and arguments whose value is a file or a folder, for completion in a shell.
_PATHS = {
    *("autoencoder", "checkpoint", "config", "data", "data_dir", "out", "resume", "script"),
    *("test_data", "weights"),
}


class BadValue(argparse.ArgumentTypeError, ValueError):
    """A bad value: argparse names its option, and jsonargparse its key in a settings file."""


def _whole_number(low: int, high: int) -> Callable[[Any], int]:
    """The type of an option that is a whole number in [low, high]."""

    def parse(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise BadValue(
                f"must be a whole number from {low:,} to {high:,}; got {str(value)!r:.80}"
            )
        return number

    return parse


Count = _whole_number(1, MOST)
Natural = _whole_number(0, MOST)
Seed = _whole_number(-SEEDS, SEEDS - 1)


def _without_aliases(text: str) -> Any:
    """Load YAML without its aliases: a few lines of them stand for millions of values.

    The word none alone is YAML's null. An option that takes this word gets it: jsonargparse tries
    the text of a value if what it was loaded as has no type of the option.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("settings cannot have YAML aliases (*name)")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:  # the time to parse grows with the square of the depth
            raise yaml.YAMLError("settings nest too deep")
    value = _load_yaml(text)
    return None if value in ("none", "None") else value


set_loader(_YAML, _without_aliases, (yaml.YAMLError,))
# A value such as `optim: helper.X` could otherwise name a class, whose module is then imported.
# jsonargparse has this setting for the whole process alone, so other parsers of a script that
# imports this module import no class either.
set_parsing_settings(import_path_denylist=["*"])


class CommandParser(ArgumentParser):
    """An argument parser whose options have hyphens: `--max-minutes`, `--dataset.image-size`."""

    unknown_hint = ""  # what an error adds after arguments that the command does not have
    example = ""  # of the whole command
    usual: frozenset[str] = frozenset()  # what --help shows, if --help-all shows more

    def __init__(self, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        options = {"formatter_class": formatter, "allow_abbrev": False, **options}
        super().__init__(print_config="--print-config", parser_mode=_YAML, **options)

    # jsonargparse gives this method to its groups as well, and there it sees only module globals.
    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument as jsonargparse does, named with hyphens and with its default shown."""
        if dataclasses.is_dataclass(options.get("type")):  # its fields come one by one
            return super().add_argument(*names, **options)
        if options.get("help") == argparse.SUPPRESS:  # an option of jsonargparse
            return super().add_argument(*names, **options)
        if "action" not in options and "type" not in options:  # a settings file has any value
            options["type"] = str if options.get("required") else str | None
        if "help" in options:
            options["help"] = _described(**options)
        action = super().add_argument(*map(hyphened, names), **options)
        _, _, name = action.dest.rpartition(".")
        if action.nargs != 0 and action.metavar is None and action.choices is None:
            action.metavar = name.upper()
        if name in _PATHS:
            action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}
        # Options that jsonargparse adds by itself.
        if action.option_strings == ["--print-config"]:
            action.help = (
                "print the settings as YAML and exit; =skip_default leaves out those that have "
                "their default"
            )
        elif str(action.help).startswith("Path to a configuration file"):
            action.help = "a YAML file of these settings"
            action.metavar = "FILE"
        return action

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None, **options: Any
    ) -> Namespace:
        try:
            parsed = super().parse_args(args, namespace, **options)
        except OverflowError:  # a whole number has hundreds of digits
            self.error("a number in the settings is too large")
        self._check_settings(parsed)
        path = parsed.get("out")
        if isinstance(path, str):
            parsed.out = os.path.expanduser(path)  # shells do not expand the ~ of --out=~/run
            data = parsed.get("data")
            if data and not parsed.get("resume") and lies_in(parsed.out, data):
                self.error(
                    f"--out {path} lies in --data {data}: choose a place outside of the data"
                )
        return parsed

    def _check_settings(self, parsed: Namespace) -> None:
        """Refuse what a settings file alone can give: to a group or a switch, any value."""
        for group in self.groups or ():
            if not isinstance(parsed.get(group, Namespace()), Namespace):
                self.error(f"{group} must be a mapping of settings; got {parsed[group]!r:.80}")
        for action in self._actions:
            value = parsed.get(action.dest)
            if action.nargs == 0 and value is not None and not isinstance(value, bool):
                self.error(f"{action.dest} must be true or false; got {value!r:.80}")

    def show_all_with(self, option: str, usual: Collection[str]) -> None:
        """Let --help show the `usual` arguments (their names in Python), and `option` show all."""
        self.usual = frozenset({"help", *usual})
        super().add_argument(option, action=_HelpAll, help="show all options and exit")
        self.usual |= {option.lstrip("-").replace("-", "_")}

    def print_help(self, file: Any = None) -> None:
        """Print the help of the usual arguments, or of all if there is no such choice."""
        hidden = [each for each in self._actions if self.usual and each.dest not in self.usual]
        helps = [each.help for each in hidden]
        for each in hidden:
            each.help = argparse.SUPPRESS
        super().print_help(file)
        for each, text in zip(hidden, helps, strict=True):
            each.help = text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 after the message in one line."""
        line = in_plain_words(" ".join(printable(message).split()))
        start, required, names = line.partition("arguments are required: ")
        if required:
            line = start + required + ", ".join(map(self.option, names.split(", ")))
        _, _, unknown = line.partition("unrecognized arguments: ")
        if unknown:
            line += f"{self._proposal(unknown)}{self.unknown_hint}"
        shown = printable(line, longest=_LONGEST_ERROR)  # it may quote a value of any length
        self.exit(2, f"{self.prog}: error: {shown} (see {self.prog} --help)\n")

    def option(self, name: str) -> str:
        """The option of a setting, as it is typed: --test-data for test_data.

        A name without an option, and one in which two options end, as --per-class and
        --pca.per-class do, stay as they are.
        """
        typed = hyphened(f"--{name}")
        _, _, last = typed.rpartition("--")
        options = _OPTION.findall(self.format_help())
        found = [option for option in options if option == typed or option.endswith(f".{last}")]
        return found[0] if len(found) == 1 else name

    def _proposal(self, unknown: str) -> str:
        """A proposal for the first of some unknown arguments, if it is like an option."""
        option = re.match(r"--([\w.-]+)", unknown)
        if option is None:
            return ""
        # Without the hyphens, which would make all options look alike.
        options = {name.lstrip("-"): name for name in _OPTION.findall(self.format_help())}
        _, _, name = option[1].rpartition(".")  # --dataset.per-class is nearer to --per-class
        return did_you_mean(name if name in options else option[1], options, options)


class _HelpAll(argparse.Action):
    """Print the help of all arguments."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help
        )
        self.dest = dest

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help(), end="")
        parser.exit()


def new_parser(
    command: str,
    description: str,
    more: str = "",
    *,
    usage: str,
    example: str,
) -> CommandParser:
    """Create the parser of a command, with --json.

    Args:
        command: Its name.
        description: What it does.
        more: Paragraphs after the options, with empty lines between them.
        usage: What follows its name, such as "--data DATA --out OUT [options]".
        example: A whole command, which runs as it stands on the reader's images.
    """
    paragraphs = [_wrapped(text) for text in more.split("\n\n") if text]
    paragraphs.append(f"Example:\n  {example}")
    paragraphs.append(f"Documentation:\n  {documentation(f'reference/commands/{command}')}")
    parser = CommandParser(
        prog=f"nfaug {command}",
        usage=f"nfaug {command} {usage}",
        description=_wrapped(description),
        epilog="\n\n".join(paragraphs).replace("%", "%%"),
    )
    parser.example = example
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _wrapped(text: str) -> str:
    """A text in lines of the terminal's width, as argparse wraps the help of options."""
    width = max(40, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _described(help: str, default: Any = None, required: bool = False, **_: Any) -> str:
    """A help text with the default, in words for a shell: none, true and false."""
    text = " ".join(help.split()).replace("`", "")
    for python, word in (("None", "none"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", word, text)
    if required:
        text = f"{text} (required)"
    elif default not in (None, "", [], argparse.SUPPRESS):
        shown = default if isinstance(default, str) else json.dumps(default)
        text = f"{text} (default: {shown})"
    return text.replace("%", "%%")


def lies_in(place: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, links followed."""
    root = Path(folder).expanduser().resolve()
    return root.is_dir() and Path(place).expanduser().resolve().is_relative_to(root)
