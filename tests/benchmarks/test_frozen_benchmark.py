"""`benchmarks/frozen.py`: its discriminant analysis is scikit-learn's, and its page decides."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("frozen")


def drawn(classes: int, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features and labels of `count` images of each class, and features to judge by."""
    random = np.random.default_rng(0)
    means = random.normal(size=(classes, 30))
    labels = np.repeat(np.arange(classes), count)
    noise = random.normal(size=(len(labels), 30)) * np.linspace(0.1, 3, 30)
    return means[labels] + noise, labels, random.normal(size=(200, 30))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("count", [3, 4, 20])  # fewer and more images than features
def test_lda_is_that_of_scikit_learn(benchmark: ModuleType, classes: int, count: int) -> None:
    features, labels, judged = drawn(classes, count)
    many, few = features[1:], labels[1:]  # classes of different size
    expected = benchmark.sklearn_lda(many, few, judged, 0)
    assert len(np.unique(expected)) == classes
    assert np.array_equal(benchmark.lda(many, few, judged, 0), expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_one_image_per_class(benchmark: ModuleType, classes: int) -> None:
    features, labels, judged = drawn(classes, 1)
    nearest = np.square(judged[:, None] - features).sum(2).argmin(1)
    assert np.array_equal(benchmark.lda(features, labels, judged, 0), nearest)
    assert np.array_equal(benchmark.logistic(features, labels, features, 0), labels)


@pytest.mark.parametrize(("better", "taken"), [(2, "LDA"), (0, "logistic regression")])
def test_the_page_decides(benchmark: ModuleType, better: int, taken: str) -> None:
    args = argparse.Namespace(network="x", sets=["steel", "signs"], labels=[5, 10], seeds=3)
    right = np.arange(100) < 50
    more = np.arange(100) < 50 + better
    found = {}
    for name in args.sets:
        for labels in args.labels:
            for seed in range(args.seeds):
                cells = {benchmark.LOGISTIC: right, benchmark.LDA: more}
                if (name, labels) in benchmark.TIMED:
                    cells[benchmark.SKLEARN_LDA] = more
                draw = benchmark.Draw(name, labels, seed)
                found[draw] = {row: benchmark.Cell(cell, 1.0) for row, cell in cells.items()}
    text = benchmark.page(args, found)
    assert f"So it is **{taken}**" in text
    assert f"| 5 | steel surfaces | 50.0 | {50 + better}.0 |" in text
    assert "| LDA of scikit-learn | 1.000 |" in text
    lines = benchmark.rows(found).splitlines()
    assert lines[:2] == [
        "set,labels,seed,classifier,accuracy,seconds",
        "steel,5,0,logistic regression,50.0000,1.000",
    ]
    assert len(lines) == 1 + 2 * len(found) + 3
