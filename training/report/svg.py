"""Curves as inline SVG, without a library and without a script: colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .markup import text

__all__ = ["Series", "curve", "thin", "ticks"]

_WIDTH, _HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 40  # margins that the labels take
_MOST_POINTS = 400  # of a line; more than there are pixels would only make the page heavy
_MOST_DOTS = 60
_CUT = 3.0  # how much larger than the range of 95% of the values the whole range may be


@dataclass(frozen=True)
class Series:
    """A line: its name and its points; what is not finite is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        pairs = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def curve(title: str, series: Sequence[Series], *, x_label: str = "step") -> str:
    """One figure: its title, a key with the last values, and the lines over labelled axes.

    Where a few values are far above all others (the first steps of a run), the frame ends at 95%
    of them, and says so. A title and names may be anybody's text.
    """
    drawn = [line for line in series if line.points()]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points()]
    ys = [y for line in drawn for _, y in line.points()]
    low, high, cut = _frame(ys)
    frame = _Frame(min(xs), max(xs), low, high)
    lines = "".join(_line(line, number, frame) for number, line in enumerate(drawn))
    key = "".join(
        f'<span class="key"><i class="s{number % 4}"></i>{text(line.name)} '
        f"<b>{_short(line.points()[-1][1])}</b></span>"
        for number, line in enumerate(drawn)
    )
    note = '<span class="key">values above the frame are cut off</span>' if cut else ""
    return (
        f'<figure class="curve"><figcaption><h3>{text(title)}</h3>{key}{note}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
        f"{frame.axes(x_label)}"
        # A frame of its own, in the same coordinates, cuts off what lies outside.
        f'<svg x="{_LEFT}" y="{_TOP}" width="{frame.width}" height="{frame.height}" '
        f'viewBox="{_LEFT} {_TOP} {frame.width} {frame.height}">{lines}</svg>'
        "</svg></figure>"
    )


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about `most` of the points: of each stretch the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = []
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        ends = {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return kept


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], a step of 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Frame:
    """From values to the coordinates of the picture."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.width, self.height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        room = 0.02 * (x_high - x_low) or 0.5
        self.x_low, self.x_high = x_low - room, x_high + room
        self.y_low, self.y_high = y_low, y_high

    def x(self, value: float) -> float:
        return _LEFT + self.width * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        return _TOP + self.height * (self.y_high - value) / (self.y_high - self.y_low)

    def axes(self, x_label: str) -> str:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = []
        for value in ticks(self.y_low, self.y_high):
            y = f"{self.y(value):.1f}"
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text x="{_LEFT - 8}" y="{y}" dy="0.35em" text-anchor="end">{_tick(value)}</text>'
            )
        for value in ticks(max(self.x_low, 0), self.x_high):
            x = f"{self.x(value):.1f}"
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(
                f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{_tick(value)}</text>'
            )
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(
            f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{text(x_label)}</text>'
        )
        return "".join(parts)


def _line(series: Series, number: int, frame: _Frame) -> str:
    style = f"s{number % 4}"
    drawn = "".join(
        f'<polyline class="line {style}" points="'
        + " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in thin(part, _MOST_POINTS))
        + '"/>'
        for part in _parts(series)
        if len(part) > 1
    )
    points = series.points()
    if len(points) <= _MOST_DOTS:
        drawn += "".join(
            f'<circle class="dot {style}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5">'
            f"<title>{text(series.name)} at {_tick(x)}: {y:.6g}</title></circle>"
            for x, y in points
        )
    return drawn


def _parts(series: Series) -> Iterator[list[tuple[float, float]]]:
    """The stretches between gaps."""
    part: list[tuple[float, float]] = []
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            part.append((x, y))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _frame(values: Sequence[float]) -> tuple[float, float, bool]:
    """Lowest and highest value to show, with some room, and whether values lie above."""
    ranked = sorted(values)
    low, high = ranked[0], ranked[-1]
    usual = ranked[int(0.95 * (len(ranked) - 1))]
    cut = len(ranked) >= 10 and usual > low and high - low > _CUT * (usual - low)
    if cut:
        high = usual
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    # Nothing that is counted or measured here is negative, but a figure of somebody's may be.
    bottom = low - room
    return (0.0 if low >= 0 > bottom else bottom), high + room, cut


def _tick(value: float) -> str:
    """A round number, short: 20k, 1.5M, 0.004."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.6g}{unit}"
    return f"{value:.6g}" if abs(value) >= 1e-12 else "0"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
