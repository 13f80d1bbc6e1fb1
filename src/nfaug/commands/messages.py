"""What errors of argparse and jsonargparse say to someone who types a command."""

from __future__ import annotations

import re

from ..io.text import did_you_mean

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list, such as [a, b]",
    "NoneType": "none",
}
_KEY = re.compile(r'Parser key "([\w.]+)"')
_WRONG_TYPE = re.compile(r"(--\S+): (.*)(?:Given value|Got value): (.*)")
_EXPECTED = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])")
_NAMED_CLASS = re.compile(r"(--\S+: )?.*?Importing (\S+) is not allowed")


def hyphened(option: str) -> str:
    """An option as it is typed: --prior.fixed-point for --prior.fixed_point.

    The name of a positional argument is left as it is.
    """
    if not option.startswith("--"):
        return option
    return option.replace("_", "-")


def in_plain_words(message: str) -> str:
    """A message of argparse or jsonargparse, in one line, with options as they are typed.

    Two messages would help nobody, and are rewritten: that of a value of a wrong type, which lists
    classes of Python, and that of a value that names a class, which proposes a call of Python.
    `Parser key "per_class": Does not validate against any of the Union subtypes Subtypes: [<class
    'int'>, <class 'NoneType'>] ... Given value: ten` becomes `--per-class must be a whole number or
    none; got 'ten'`.
    """
    message = _KEY.sub(lambda key: hyphened(f"--{key[1]}"), message)
    named_class = _NAMED_CLASS.search(message)
    if named_class is not None:
        option, value = named_class.groups()
        return f"{option or ''}settings are values, and name no class; got {value}"
    wrong_type = _WRONG_TYPE.search(message)
    if wrong_type is not None:
        option, types, value = wrong_type.groups()
        expected = _EXPECTED.findall(types)
        if expected:
            return _wrong_type(option, expected, value)
    return message


def _wrong_type(option: str, expected: list[tuple[str, str]], value: str) -> str:
    """The message of a value that has none of the expected types: a class, or some choices."""
    allowed = []
    words = []
    for kind, quoted in expected:
        if quoted:
            words = re.sub("['\"]", "", quoted).split(", ")
            allowed.append(f"one of {', '.join(words)}")
        else:
            allowed.append(_KINDS.get(kind, kind))
    proposal = did_you_mean(value, words)
    return f"{option} must be {' or '.join(allowed)}; got {value!r}{proposal}"
