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
    above = low < number if open_low else low <= number
    if not (above and number <= high and math.isfinite(number)):
        if open_low:
            allowed = f"above {low:g}"
            if high < math.inf:
                allowed += f" and at most {high:g}"
        elif high < math.inf:
            allowed = f"from {low:g} to {high:g}"
        else:
            allowed = f"of {low:g} or more"
        raise ValueError(f"{name} must be a finite number {allowed}; got {value!r:.80}")
    return number
