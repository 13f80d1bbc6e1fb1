"""Cells of the study: their definition, and the file of finished cells."""

from __future__ import annotations

import csv
import fcntl
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["COLUMNS", "Cell", "append", "options", "pending", "read"]


@dataclass(frozen=True)
class Cell:
    """One classifier, trained and measured once: everything that its accuracy depends on.

    Attributes:
        data: Name of the data set.
        arm: Name in `arms.ARMS`; what happens to an image first.
        flow: Name in `flows.FLOWS`, the source of the arm's flow; "-" if the arm uses none.
        base: Augmentation after the arm, joined by "+": "none", "flip+crop", ...
        per_class: Labelled images per class.
        seed: Seed of the labelled images, the weights, the order of batches and all draws.
        split: "validation" or "tuning" to choose settings on, "test" for reported results.
        steps: Optimiser steps.
        settings: Settings of the arm, as "name=value" separated by blanks.
        network: Name in `classifiers.NETWORKS`.
    """

    data: str
    arm: str
    flow: str
    base: str
    per_class: int
    seed: int
    split: str
    steps: int
    settings: str = ""
    network: str = "small-cnn"


_TYPES = {field.name: int if field.type == "int" else str for field in fields(Cell)}
# "right" tells which test images were right (gains.packed); empty for other images.
RESULTS = (
    *("accuracy", "tested", "kept", "bank_seconds", "train_seconds", "torch", "flow_sha"),
    "right",
)
COLUMNS = (*_TYPES, *RESULTS)


def options(cell: Cell) -> dict[str, str]:
    """The arm's settings by name."""
    return dict(part.split("=", 1) for part in cell.settings.split())


def read(path: Path) -> dict[Cell, dict[str, str]]:
    """The finished cells and their results; an incomplete last line is skipped."""
    if not path.exists():
        return {}
    done = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if None in row or None in row.values() or not row["torch"]:
                continue
            cell = Cell(**{name: kind(row[name]) for name, kind in _TYPES.items()})
            done[cell] = {name: row[name] for name in RESULTS}
    return done


def append(path: Path, cell: Cell, results: Mapping[str, Any]) -> None:
    """Append a row; safe with several processes at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        file.seek(0)
        header = file.readline().strip()
        if not header:
            writer.writeheader()
        elif header != ",".join(COLUMNS):
            raise ValueError(f"{path} has the columns {header}; expected {','.join(COLUMNS)}")
        elif not path.read_bytes().endswith(b"\n"):
            file.write("\n")  # end an incomplete last line
        writer.writerow({**asdict(cell), **results})


def pending(cells: Iterable[Cell], done: Mapping[Cell, Any]) -> list[Cell]:
    """Cells that are not done yet, without duplicates, sorted by seed and base.

    Neighbours in this order share no bank, so that jobs do not wait for each other. A cell stays
    done when a bundled flow changes: start a new CSV then.
    """
    missing = [cell for cell in dict.fromkeys(cells) if cell not in done]
    return sorted(missing, key=lambda cell: (cell.seed, cell.base))
