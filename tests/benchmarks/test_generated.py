"""The benchmark of classifiers trained on generated images, at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generated

pytestmark = pytest.mark.soak  # trains flows and classifiers


def test_rows_continue_and_the_table_averages_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    words = [
        *("--data", "digits", "--name", "digits", "--per-class", "20", "--epochs", "3"),
        *("--temperatures", "1", "0.4", "--gaussians", "data", "--cnn-steps", "5"),
        *("--csv", str(file)),
    ]
    generated.main(words)
    first = generated.read(file)
    assert [row["temperature"] for row in first] == ["1.0", "0.4"]
    assert all(0 <= float(row["cnn_acc"]) <= 100 for row in first)
    assert first[0]["bits_per_dim"] == first[1]["bits_per_dim"]
    capsys.readouterr()
    generated.main([*words, "--seeds", "2"])
    assert generated.read(file)[:2] == first
    assert len(generated.read(file)) == 4
    printed = capsys.readouterr().out
    mean = sum(float(row["nf_acc"]) for row in generated.read(file)[::2]) / 2
    assert f"| digits | data | 3 | 1 | 2 | {mean:.1f} |" in printed
    assert file.with_suffix(".md").read_text() in printed
