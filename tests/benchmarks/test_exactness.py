from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.exactness import main


def test_a_table_without_changed_images(
    tiny_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        ["--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--split=train", "--count=64"]
    )
    *rows, total = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 8
    count, wrong, _, changed, _ = (int(cell) for cell in total.split("|")[3:-1])
    assert count == 64
    assert wrong == changed == 0
