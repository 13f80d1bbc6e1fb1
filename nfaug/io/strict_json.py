"""Values as JSON has them, and text that claims to be JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["jsonable", "parse_json"]

_DEEPEST = 32  # levels of objects and lists
_MOST_DIGITS = 1000  # of a whole number: reading one takes the square of its length


def jsonable(value: Any) -> Any:
    """The value with tuples as lists and what is not finite as None: JSON has no NaN.

    Raises:
        TypeError: something is of no type that JSON has.
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):  # bool is an int
        return value
    raise TypeError(f"JSON has no {type(value).__name__}; got {value!r:.80}")


def parse_json(data: bytes) -> Any:
    """What a stranger's JSON says, or nothing: two readers cannot take it for different things.

    Memory is some fifty times the length of `data`, at most: bound that first.

    Raises:
        ValueError: it is not UTF-8, or no JSON; an object has a key twice; a number is NaN,
            infinite, or longer than 1,000 digits; a text holds half of a surrogate pair, which
            could not be written again; or it nests deeper than 32 levels.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError(f"it nests deeper than {_DEEPEST} levels") from None
    _check_nesting(value)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key[:40]!r} twice")
        key.encode()
        found[key] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits; at most {_MOST_DIGITS} are read")
    return int(text)


def _check_nesting(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()  # half of a surrogate pair has no UTF-8
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item.values()
        level = below
        if not level:
            return
    raise ValueError(f"it nests deeper than {_DEEPEST} levels")
