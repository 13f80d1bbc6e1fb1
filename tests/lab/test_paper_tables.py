"""The tables of the paper on a small scale, as their commands make them."""

from __future__ import annotations

import argparse
import csv
import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tools.forked import run_python

import nfaug
from nfaug.classes.fixed_point import FixedPointDivergence
from nfaug.data.batches import decode

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


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the laboratory on the path."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.fixture
def released(lab: None) -> ModuleType:
    """lab/paper_released.py."""
    return importlib.import_module("paper_released")


def test_paper_released_says_what_was_found(released: ModuleType) -> None:
    up, level, down = (released.Difference(mean, 1.0, 3) for mean in (2.0, 0.5, -0.5))
    for steps, expected in (
        ((up, up), "found"),
        ((up, level), "not decided"),
        ((up, level, down), "not found"),
        ((up, None), "not measured"),
    ):
        assert released.verdict(steps) == expected
    assert str(up) == "+2.0 ± 1.0 (3 seeds)"


def test_paper_released_chooses_by_seed_0(released: ModuleType) -> None:
    few, some, many = released.tables_of("fashion-mnist")["kernel"]
    found = {(few.key, 0): {"nf_acc": "60"}, (some.key, 0): {"nf_acc": "70"}}
    found[few.key, 1] = {"nf_acc": "90"}
    assert released.best(found, [few, some]) == some
    assert released.best(found, [few, some, many]) is None
    found[many.key, 0] = {"nf_acc": ""}  # it diverged
    assert released.best(found, [few, some, many]) == some
    assert released.difference(found, "nf_acc", some, few, range(2)) is None, "one seed has both"
    found[some.key, 1] = {"nf_acc": "104"}
    two = released.difference(found, "nf_acc", some, few, range(2))
    assert (two.mean, two.seeds) == (12, 2)
    assert two.half == pytest.approx(12.706 * 2, rel=1e-4), "Student's t with one degree of freedom"


def test_a_flow_whose_solve_diverges_has_a_row(
    released: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise FixedPointDivergence(3, 0, 37.0, "")

    monkeypatch.setattr(released, "train", diverges)
    images = nfaug.open_dataset("digits", per_class=4)
    args = argparse.Namespace(name="fashion-mnist", padded=None, per_class=2, epochs=2)
    setting = released.tables_of("fashion-mnist")["kernel"][0]
    test = decode(images, progress=False), images.targets
    row = released.cell(args, setting, 0, images, test)
    assert row["converged"] == "FixedPointDivergence"
    assert "nf_acc" not in row
    assert set(row) < set(released.COLUMNS)


def test_cnn_accuracy(lab: None) -> None:
    """A ResNet-18, a quarter as wide, learns light from dark, and is the same for a seed."""
    cnn_acc = importlib.import_module("cnn_acc")
    for width, weights in ((16, 701_466), (64, 11_173_962)):
        network = cnn_acc.network(3, 10, width)
        assert sum(each.numel() for each in network.parameters()) == weights
    assert cnn_acc.network(1, 4)[:-3](torch.zeros(2, 1, 28, 28)).shape == (2, 128, 4, 4)
    labels = torch.arange(2).repeat(20)
    images = torch.randint(100, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    images = (images + 155 * labels[:, None, None, None]).to(torch.uint8)
    test = (images[:20], labels[:20])
    assert cnn_acc.cnn_accuracy(images, labels, test, passes=40, seed=1) == 1
    short = [cnn_acc.cnn_accuracy(images, labels, test, passes=2, seed=1) for _ in range(2)]
    assert short[0] == short[1]
