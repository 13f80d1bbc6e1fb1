"""The results of a comparison: a CSV file with a row for each augmentation and seed."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nfaug.io.atomic import write_text
from nfaug.io.manifest import reading
from nfaug.io.strict_json import read_json

__all__ = ["Cell", "Cells"]

_COLUMNS = ("augmentation", "seed", "accuracy", "seconds", "right")


@dataclass(frozen=True)
class Cell:
    """A trained classifier: which validation images were right, (N,) bool, and its seconds."""

    right: NDArray[np.bool_] = field(repr=False)
    seconds: float

    @property
    def accuracy(self) -> float:
        """Validation accuracy in per cent."""
        return 100 * float(self.right.mean())


class Cells(dict[tuple[str, int], Cell]):
    """The cells of a folder by augmentation and seed; on disk as soon as they are known.

    Raises:
        ValueError: The folder holds the comparison of other data or settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], images: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, record = folder / "cells.csv", folder / "settings.json"
        now = json.loads(json.dumps(dict(settings)))
        if not record.exists():
            write_text(record, json.dumps(now, indent=2))
        with reading(record):
            saved = read_json(record)
        if changed := [name for name in now if now[name] != saved.get(name)]:
            raise ValueError(
                f"{folder} holds a comparison with other settings: {changed[0]} was "
                f"{saved.get(changed[0])!r} and is {now[changed[0]]!r}. Use another --out"
            )
        if self.file.exists():
            for row in csv.DictReader(io.StringIO(self.file.read_text(encoding="utf-8"))):
                bits = np.frombuffer(base64.b64decode(row["right"]), np.uint8)
                cell = Cell(np.unpackbits(bits, count=images) > 0, float(row["seconds"]))
                self[row["augmentation"], int(row["seed"])] = cell

    def add(self, augmentation: str, seed: int, right: Tensor, seconds: float) -> None:
        """Keep a cell, in memory and on disk."""
        self[augmentation, seed] = Cell(right.numpy(), seconds)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for (name, number), cell in self.items():
            packed = base64.b64encode(np.packbits(cell.right).tobytes()).decode()
            table.writerow((name, number, f"{cell.accuracy:.4f}", f"{cell.seconds:.2f}", packed))
        write_text(self.file, text.getvalue())

    def seeds(self, augmentations: Sequence[str]) -> list[int]:
        """The seeds that every one of these augmentations has."""
        every = {seed for _, seed in self}
        return sorted(s for s in every if all((name, s) in self for name in augmentations))

    @property
    def seconds(self) -> float:
        """Time of all cells."""
        return sum(cell.seconds for cell in self.values())
