"""Anybody's text in HTML and SVG."""

from __future__ import annotations

from html import escape

__all__ = ["text"]

_LONGEST = 300  # characters of any one text of a run


def text(value: object, longest: int = _LONGEST) -> str:
    """A value as plain words, in an attribute too: escaped, without control characters, short."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return escape(shown if len(shown) <= longest else shown[: longest - 1] + "…")
