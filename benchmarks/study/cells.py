"""Cells of the study: their definition, and the file of finished cells."""

from __future__ import annotations

import csv
import fcntl
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["COLUMNS", "Cell", "append", "options", "pending", "read"]


@dataclass(frozen=True)
class Cell:
    """One classifier, trained and measured once: what its accuracy depends on, by name.

    Names stand for the images that --data, --other, --unlabelled and --flow give: all rows of a CSV
    must have the same ones.

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
# "kept" is the share of variants that differ from their image. "right" tells which test images were
# right (gains.packed); empty for other images.
RESULTS = (
    *("accuracy", "tested", "kept", "bank_seconds", "train_seconds", "torch", "flow_sha"),
    "right",
)
COLUMNS = (*_TYPES, *RESULTS)


def options(cell: Cell) -> dict[str, str]:
    """The arm's settings by name."""
    return dict(part.split("=", 1) for part in cell.settings.split())


def read(path: Path) -> dict[Cell, dict[str, str]]:
    """The finished cells and their results; a last line without its end is skipped.

    Raises:
        ValueError: A line has more or fewer values than columns.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    done = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(complete)), 2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} of {path} does not have {len(COLUMNS)} values: {row}")
        cell = Cell(**{name: kind(row[name]) for name, kind in _TYPES.items()})
        done[cell] = {name: row[name] for name in RESULTS}
    return done


def append(path: Path, cell: Cell, results: Mapping[str, Any]) -> None:
    """Append a row, in the place of a last line without its end; safe with several processes."""
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
        else:
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
        writer.writerow({**asdict(cell), **results})


def pending(cells: Iterable[Cell], done: Mapping[Cell, Any]) -> list[Cell]:
    """Cells that are not done yet, without duplicates, sorted by seed and base.

    A cell stays done when a bundled flow changes: start a new CSV then.
    """
    missing = [cell for cell in dict.fromkeys(cells) if cell not in done]
    return sorted(missing, key=lambda cell: (cell.seed, cell.base))
