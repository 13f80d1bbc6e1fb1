"""Text from files, servers and other people, made safe to print."""

from __future__ import annotations

__all__ = ["printable"]

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
