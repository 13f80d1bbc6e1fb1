"""Checks of numbers that come from users and files."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

MOST = 2**31 - 1  # of whatever is counted
MOST_SIDE = 2**14  # pixels of a side of an image
SEEDS = 2**63  # torch's generators take seeds below it, and those from minus it on


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


def check_whole(name: str, value: Any, low: int = 1, high: int = MOST) -> int:
    """The value as an int; ValueError unless it is a whole number in [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(
            f"{name} must be a whole number from {low:,} to {high:,}; got {value!r:.80}"
        )
    return number


def check_seed(value: Any) -> int:
    """The seed as an int; ValueError unless it is a whole number that torch's generators take."""
    return check_whole("seed", value, -SEEDS, SEEDS - 1)


def as_size(value: int | str | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image size: a side, "128", "128,96", or a pair.

    Raises:
        ValueError: If it is none of these, or a side is below 1.

    Example:
        >>> as_size(32), as_size("128"), as_size("128,96"), as_size([64, 48])
        ((32, 32), (128, 128), (128, 96), (64, 48))
    """
    parts: Sequence[int | str]
    if isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, int):
        parts = [value]
    else:
        parts = value
    try:
        sides = [int(part) for part in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(
            f"an image size is a number of pixels or height,width, such as 128 or 128,96; got "
            f"{value!r}"
        )
    return sides[0], sides[-1]


def check_side(size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of images; ValueError if a side is longer than can be meant."""
    if max(size) > MOST_SIDE:
        raise ValueError(
            f"a side of an image has at most {MOST_SIDE:,} pixels; got {size[0]} x {size[1]}"
        )
    return size


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share in [0, 1] that was counted over `count` images.

    >>> [round(end, 3) for end in share_interval(0.5, 100)]
    [0.404, 0.596]
    """
    z = 1.96
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    whole = 1 + z**2 / count
    return (centre - half) / whole, (centre + half) / whole
