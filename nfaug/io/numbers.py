"""Checks of numbers that come from users and files."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["check_number"]


def check_number(
    name: str, value: Any, low: float, high: float, *, open_low: bool = False
) -> float:
    """The value as a float; ValueError unless it is finite and in [low, high], or (low, high]."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (low <= number <= high and math.isfinite(number)) or (open_low and number == low):
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number in {bounds}; got {value!r:.80}")
    return number
