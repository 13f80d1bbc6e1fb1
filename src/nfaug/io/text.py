"""Text from files, servers and other people, made safe to print."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from os import PathLike

_SPACES = "\t\n\r\v\f"


def printable(value: object, *, longest: int | None = None) -> str:
    r"""`str(value)` as one line that can be encoded, without control characters.

    Line breaks and tabs become spaces. Every other character that does not print, such as the start
    of a terminal escape, a mark that reverses the writing direction or half of a surrogate pair,
    becomes U+FFFD. Text of more than `longest` characters is cut and ends in "…".

    >>> printable("red:\x1b[31m")
    'red:�[31m'
    """
    text = "".join(_printable_character(character) for character in str(value))
    if longest is None or len(text) <= longest:
        return text
    return text[: longest - 1] + "…"


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    if character in _SPACES:
        return " "
    return "\N{REPLACEMENT CHARACTER}"


def public_name(source: str | PathLike[str]) -> str:
    """How a record names a flow or a dataset: the last part of a path, or the name."""
    text = os.fspath(source)
    path = os.path.expanduser(text)
    if os.path.isabs(path) or os.path.exists(path):
        text = os.path.basename(os.path.abspath(path)) or path
    return text.encode(errors="replace").decode()  # file names need not be valid text


def did_you_mean(word: str, choices: Iterable[str], whole: Mapping[str, str] | None = None) -> str:
    """The end of an error: the choice that looks most like a word, or nothing if none does.

    `whole` has what to propose in place of some choices, such as their full names.

    >>> did_you_mean("regoins", ["axis", "pair", "regions"])
    '; did you mean regions?'
    >>> did_you_mean("rand", ["mixup", "randaugment"])
    '; did you mean randaugment?'
    >>> did_you_mean("blur", ["axis", "pair", "regions"])
    ''
    """
    known = list(choices)
    close = difflib.get_close_matches(word, known, n=1)
    if not close and len(word) > 2:  # the first letters of a longer one
        close = [choice for choice in known if choice.startswith(word)]
    if not close:
        return ""
    return f"; did you mean {(whole or {}).get(close[0], close[0])}?"
