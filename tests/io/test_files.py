"""Files and text of other people: pipes, large files, control characters."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest

from nfaug.io import text
from nfaug.io.files import open_regular
from nfaug.io.strict_json import jsonable
from nfaug.io.text import printable


def test_only_regular_files_within_limits_are_opened(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    with open_regular(file, most=5) as opened:
        assert opened.read() == b"12345"
    with pytest.raises(ValueError, match="5 bytes"):
        open_regular(file, most=4)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="regular"):
            open_regular(tmp_path / name)


def test_json_has_no_tuples_and_no_nan() -> None:
    assert jsonable({"a": (1, float("nan")), 2: True}) == {"a": [1, None], "2": True}
    with pytest.raises(TypeError, match="object"):
        jsonable([object()])


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
    assert doctest.testmod(text).failed == 0
