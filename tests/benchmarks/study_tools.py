"""A cell of the study and its row, for the tests."""

from __future__ import annotations

from benchmarks.study import gains
from benchmarks.study.cells import Cell

CELL = Cell("tiny", "nfa", "l", "none", 6, 0, "test", 4, "p=0.5 alpha=1 mix=axis")
ROW = {
    "accuracy": "80.25", "tested": 100, "kept": "", "bank_seconds": "0.0",
    "train_seconds": "1.5", "torch": "2", "flow_sha": "", "right": "",
}  # fmt: skip


def outcomes(*accuracies: float) -> dict[int, gains.Outcome]:
    return dict(enumerate(map(gains.Outcome, accuracies)))
