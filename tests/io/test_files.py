"""Files and text of other people: pipes, large files, control characters."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest

from nfaug.io import text
from nfaug.io.strict_json import jsonable, read_json
from nfaug.io.text import printable


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="regular"):
            read_json(tmp_path / name)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**40)
    with pytest.raises(ValueError, match="16 MiB"):
        read_json(tmp_path / "large")


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
