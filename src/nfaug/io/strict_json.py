"""JSON that every reader understands in the same way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST = 2**24  # bytes; the manifest of 65,536 classes has a third of them


def jsonable(value: Any) -> Any:
    """Return the value with tuples as lists and numbers that are not finite as None.

    Raises:
        TypeError: A part has a type that JSON lacks.
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
    """Parse JSON that comes from elsewhere.

    Raises:
        ValueError: The data are over 16 MiB, not UTF-8 or not JSON, an object has a key twice, a
            number is NaN, infinite or of more digits than Python reads, a string holds half of a
            surrogate pair, or the nesting is deeper than Python reads.
    """
    if len(data) > LONGEST:
        raise ValueError("it is longer than 16 MiB")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct)
        # Refuses NaN and infinity, then half a surrogate pair.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a regular file.

    Raises:
        ValueError: The file is another one, or not strict JSON (see `parse_json`).
        OSError: The file cannot be read.
    """
    if not file.is_file():  # a pipe has no end
        raise ValueError("it is not a regular file")
    with file.open("rb") as opened:
        values = parse_json(opened.read(LONGEST + 1))
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has a key twice")
    return values
