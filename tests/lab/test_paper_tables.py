"""The tables of the paper on a small scale, as their command makes them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from forked import run_python
from sklearn.datasets import load_digits

SCRIPT = Path(__file__).resolve().parents[2] / "lab/paper_tables.py"


def test_tiny_tables(tmp_path: Path) -> None:
    digits = load_digits()
    data = tmp_path / "digits.npz"
    images = (digits.images[:200] * 15).astype(np.uint8)
    np.savez(data, images=images, labels=digits.target[:200])
    rows = tmp_path / "rows.csv"
    words = ["--data", data, "--test-data", data, "--csv", rows, "--name", "digits"]
    words += ["--per-class", 13, "--epochs", 12, "--seeds", 2, "--tables", "when", "kernel"]
    words += ["--curve-images", 5]
    words += ["--cnn", "--cnn-steps", 1, "--cnn-samples", 8]
    command = [SCRIPT, *words]
    ran = run_python(command)
    assert ran.returncode == 0, ran.stderr
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    settings = ["data", "fpi-means-c3333", "fpi-means-c3333-once", "late-means-c3333"]
    settings += ["late-means-c3333-once", "fpi-means-c3333-mean"]
    assert [(row["seed"], row["setting"]) for row in found] == [
        (seed, setting) for seed in "01" for setting in settings
    ]
    for row in found:
        assert 0 <= float(row["nf_acc"]) <= 100
        assert 0 <= float(row["cnn_acc"]) <= 100
        assert 0 <= float(row["nf_acc_half"]) <= 100
    figures = {(row["setting"], row["seed"]): row for row in found}
    for (setting, _), row in figures.items():
        ends_with_the_fixed_point = setting != "data"
        assert (row["converged"] != "") == ends_with_the_fixed_point
    assert re.search(r"^\| pi of Eq. 10 \| [\d.]+ ± [\d.]+ \(2\) \|", ran.stdout, re.MULTILINE)
    before = rows.read_bytes()
    again = run_python(command)
    assert again.returncode == 0, again.stderr
    assert rows.read_bytes() == before  # every cell was there
    assert again.stdout.partition("###")[2] == ran.stdout.partition("###")[2]
