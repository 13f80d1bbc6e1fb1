"""Errors of argparse and jsonargparse in the words of someone who types a command."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..io.numbers import MOST, SEEDS
from ..io.text import did_you_mean

__all__ = ["hyphened", "in_plain_words"]

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
    "NoneType": "none",
}
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)", re.IGNORECASE)
_MISSING = re.compile(r"the following arguments are required: (.*)")
_NO_VALUE = re.compile(r"argument (?:-\w/)?(\S+): expected (?:at least )?one argument")
_OF_CHOICES = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)")
_ARGUMENT = re.compile(r"^argument (\S+): (.*)")
_NO_FILE = re.compile(
    r'Parser key "([\w.]+)":.*?(?:File does not exist|not exist)[^\']*\'?([^\']*)'
)
_NO_CONFIG = re.compile(r'Parser key "([\w.]+)": Unable to load config [\'"](.*?)[\'"]')
_OUT_OF_RANGE = re.compile(
    r'Parser key "([\w.]+)":.*?Not of type (\w+): '
    r"(?:invalid literal for int\(\) with base 10: )?(.*?)(?: does not| - Expected|$)"
)
_RANGES = {  # of the types of options
    "Count": f"from 1 to {MOST:,}",
    "Natural": f"from 0 to {MOST:,}",
    "Seed": f"from {-SEEDS:,} to {SEEDS - 1:,}",
    "PositiveInt": "above 0",
}
_BAD_YAML = re.compile(r"Problems parsing config: (.*)")
_NO_SETTINGS = re.compile(r"Unexpected config: (.*)")
_NOT_IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_NO_SETTING = re.compile(r"Option '([\w.]+)' is not accepted")
_WRONG_TYPE = re.compile(r'Parser key "([\w.]+)": .*?(?:Given value|Got value): (.*)')
_NAMED_CLASS = re.compile(r'(?:Parser key "([\w.]+)": .*?)?Importing (.*?) is not allowed')
_SETTINGS = "must be a YAML file of settings"


def hyphened(option: str) -> str:
    """An option as it is typed: --prior.fixed-point for --prior.fixed_point.

    The name of a positional argument is left as it is.
    """
    if not option.startswith("--"):
        return option
    return option.replace("_", "-")


def in_plain_words(
    message: str, options: Sequence[str] = (), *, example: str = "", unknown: str = ""
) -> str:
    """A message of argparse or jsonargparse as a sentence about the option.

    `Parser key "per_class": Does not validate against any of the Union subtypes Subtypes: [int,
    NoneType] ... Given value: ten` becomes `--per-class must be a whole number or none; got 'ten'`.

    Args:
        message: The message, in one line.
        options: The command's options, to propose one for a misspelt one.
        example: A whole command, shown where an argument is missing.
        unknown: What is said after arguments that the command does not have.
    """
    message = re.sub(r"<class '(.*?)'>", r"\1", message)
    rules: list[tuple[re.Pattern[str], Callable[..., str]]] = [
        (_UNKNOWN, lambda words: f"{_unknown(words, options)}{unknown}"),
        (_MISSING, lambda names: _missing(names, options, example)),
        (_NO_VALUE, lambda option: f"{option} needs a value"),
        (_OF_CHOICES, _of_choices),
        (_NO_FILE, lambda key, path: f"{_named(key, options)}: there is no file {path!r}"),
        (_NO_CONFIG, lambda key, given: f"{_named(key, options)} {_SETTINGS}; got {given!r}"),
        (_OUT_OF_RANGE, lambda key, kind, given: _out_of_range(message, key, kind, given)),
        (_BAD_YAML, lambda text: f"--config is not valid YAML: {text}"),
        (_NO_SETTINGS, lambda text: f"--config must hold settings, as in epochs: 3; got {text!r}"),
        (_NOT_IN_GROUP, lambda group, name: _no_setting(f"{group}.{name}", options)),
        (_NO_SETTING, lambda name: _no_setting(name, options)),
        (_NAMED_CLASS, _named_class),
        (_WRONG_TYPE, lambda key, given: _wrong_type(message, key, given)),
        (_ARGUMENT, lambda name, text: f"{name}: {text}"),
    ]
    for pattern, say in rules:
        found = pattern.search(message)
        if found is not None:
            return say(*found.groups())
    return message


def _named(key: str, options: Sequence[str]) -> str:
    """An option or argument of jsonargparse's key."""
    option = hyphened(f"--{key}")
    return option if option in options else key.upper()


def _unknown(words: str, options: Sequence[str]) -> str:
    first, _, _ = words.partition(" ")
    option, _, _ = first.partition("=")
    if not option.startswith("-"):
        return f"there is no place for {words!r}"
    # Without the hyphens, which would make all options look alike.
    meant = did_you_mean(option.lstrip("-"), [name.lstrip("-") for name in options])
    return f"there is no option {option}{meant.replace('mean ', 'mean --')}"


def _no_setting(name: str, options: Sequence[str]) -> str:
    """A settings file has a key that no option has."""
    names = [option.removeprefix("--").replace("-", "_") for option in options]
    return f"there is no setting {name}{did_you_mean(name, names)}"


def _out_of_range(message: str, key: str, kind: str, given: str) -> str:
    or_none = " or none" if "Expected a NoneType" in message else ""
    of_union = re.search(r"Given value: (.*)$", message)
    value = given.strip("'") if of_union is None else of_union[1]
    range_of_type = _RANGES.get(kind, "in range")
    return f"{hyphened(f'--{key}')} must be a whole number {range_of_type}{or_none}; got '{value}'"


def _missing(names: str, options: Sequence[str], example: str) -> str:
    *first, last = [_named(name, options) for name in names.split(", ")]
    text = f"{', '.join(first)} and {last} are missing" if first else f"{last} is missing"
    return f"{text}, as in: {example}" if example else text


def _of_choices(option: str, given: str, quoted: str) -> str:
    choices = re.sub("['\"]", "", quoted).split(", ")
    allowed = " or ".join(choices)
    return f"{option} must be {allowed}; got {given!r}{did_you_mean(given, choices)}"


def _named_class(setting: str | None, given: str) -> str:
    option = "a setting" if setting is None else hyphened(f"--{setting}")
    return f"{option} takes values, and no class; got {given}"


def _wrong_type(message: str, setting: str, given: str) -> str:
    types = re.findall(r"Expected a (?:typing\.)?(\w+)", message)
    if not types:
        return message
    expected: list[str] = []
    listed = re.search(r"Literal\[(.*?)\]", message)
    choices = [] if listed is None else re.sub("['\"]", "", listed[1]).split(", ")
    if choices:
        expected.append(f"one of {', '.join(choices)}")
    for name in dict.fromkeys(types):
        if name != "Literal":
            expected.append(_TYPES.get(name, name))
    if types[0] in ("list", "List", "tuple"):
        expected[0] = f"a list, such as [{given}]"
    if given == "None":  # as a settings file has it
        given = "none"
    return (
        f"{hyphened(f'--{setting}')} must be {' or '.join(expected)}; got {given!r}"
        f"{did_you_mean(given, choices)}"
    )
