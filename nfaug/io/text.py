"""Text from files, servers and other people, made safe to print."""

from __future__ import annotations

__all__ = ["printable"]

_SPACES = "\t\n\r\v\f"


def printable(value: object, *, longest: int | None = None) -> str:
    r"""Return `str(value)` as one line without control characters.

    Line breaks and tabs become spaces. Every other character that does not print (control
    characters, the start of a terminal escape, marks that reverse the writing direction, half of a
    surrogate pair) becomes U+FFFD. The result can be encoded as UTF-8.

    Args:
        value: Any text or object that is not ours: a name, a key, a message of a server.
        longest: Maximum number of characters; longer text is cut and ends in "…".

    >>> printable("red:\x1b[31m")
    'red:�[31m'
    """
    shown = "".join(
        char if char.isprintable() else " " if char in _SPACES else "\N{REPLACEMENT CHARACTER}"
        for char in str(value)
    )
    if longest is None or len(shown) <= longest:
        return shown
    return shown[: longest - 1] + "…"
