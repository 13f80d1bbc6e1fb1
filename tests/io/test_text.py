from __future__ import annotations

import doctest

import pytest

from nfaug.io import text
from nfaug.io.strict_json import jsonable, parse_json
from nfaug.io.text import printable


@pytest.mark.parametrize(
    "bad",
    ["\x1b[31mred", "\x1b]0;title\x07", "a\x00b", "\u202egnp.elif", "a\ud800", "\x9b2J", "a\rb"],
)
def test_foreign_text_is_printable(bad: str) -> None:
    shown = printable(bad)
    assert shown.isprintable()
    assert len(shown) == len(bad)
    shown.encode()


def test_text_of_ours_stays() -> None:
    assert printable("Łabędź 犬 T-shirt, top") == "Łabędź 犬 T-shirt, top"
    assert printable("two\nlines") == "two lines"
    assert printable("x" * 100, longest=10) == "xxxxxxxxx…"
    assert printable(3.5) == "3.5"
    assert doctest.testmod(text).failed == 0


def test_json_has_no_tuples_and_no_nan() -> None:
    assert jsonable({"a": (1, float("nan")), 2: True}) == {"a": [1, None], "2": True}
    with pytest.raises(TypeError, match="object"):
        jsonable([object()])
    assert parse_json(b'{"a": [1, null, "\\u00e9"]}') == {"a": [1, None, "é"]}
