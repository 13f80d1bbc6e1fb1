from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from nfaug.training.report.svg import Series, curve, thin, ticks


def points_of(figure: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', figure)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_the_points_lie_where_the_axes_say() -> None:
    figure = curve("loss", [Series("a", [0, 50, 100], [1.0, 2.0, 4.0])])
    root = ElementTree.fromstring(figure)
    (line,) = points_of(figure)
    assert len(line) == 3
    labels = {
        text.text: (float(text.get("x", 0)), float(text.get("y", 0))) for text in root.iter("text")
    }
    # The middle point is at step 50 and value 2, and both are labelled.
    assert "2" in labels
    assert "100" in labels
    assert line[1][1] == pytest.approx(labels["2"][1], abs=0.2)
    assert line[2][0] == pytest.approx(labels["100"][0], abs=0.2)
    assert [title.text for title in root.iter("title")] == [
        "a at 0: 1",
        "a at 50: 2",
        "a at 100: 4",
    ]


def test_gaps_and_hardly_any_points() -> None:
    assert curve("none", [Series("a", [1, 2], [math.nan, math.inf])]) == ""
    single = curve("one", [Series("a", [5], [0.0])])
    assert not points_of(single)
    assert single.count("<circle") == 1
    parts = curve("two", [Series("a", [1, 2, 3, 4, 5], [1, 2, math.nan, 3, 4])])
    assert [len(part) for part in points_of(parts)] == [2, 2]
    assert curve("flat", [Series("a", [1, 2, 3], [7.0, 7.0, 7.0])])


def test_the_first_steps_do_not_flatten_the_rest() -> None:
    values = [500.0, *(8 - 0.01 * i for i in range(99))]
    figure = curve("loss", [Series("a", list(range(100)), values)])
    assert "cut off" in figure
    (line,) = points_of(figure)
    heights = [y for _, y in line]
    assert heights[0] < 0, "it lies above the picture"
    assert max(heights[1:]) - min(heights[1:]) > 150
    assert "cut off" not in curve("loss", [Series("a", list(range(100)), [*values[1:], 7.0])])


def test_long_lines_are_thinned_and_keep_their_extremes() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[77] = (77.0, -9.0)
    kept = thin(points, 400)
    assert len(kept) <= 400
    assert {points[4321], points[77]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:5], 400) == points[:5]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.0, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
        (7.1, 7.1, [7.1]),
        (-3, 3, [-2, 0, 2]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_names_are_somebodys_text() -> None:
    figure = curve("<script>\x1b", [Series('"><b>', [1, 2], [1, 2])], x_label="a&b")
    root = ElementTree.fromstring(figure)
    assert not list(root.iter("script"))
    heading = root.find("figcaption/h3")
    assert heading is not None
    assert heading.text == "<script>\N{REPLACEMENT CHARACTER}"
