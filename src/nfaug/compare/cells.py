"""The cells of a comparison in a folder."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfaug.io.atomic import write_text
from nfaug.io.errors import reading
from nfaug.io.strict_json import jsonable, read_json

from .figures import Cell

_COLUMNS = ("augmentation", "seed", "accuracy", "seconds", "right")
_REMOVE = "remove this line, and the same command trains its classifier again"


class Cells(dict[tuple[str, int], Cell]):
    """The cells of a folder by augmentation and seed; on disk as soon as they are known.

    Args:
        folder: A new or empty folder, or that of the same comparison.
        config: What the cells depend on.
        images: The number of test images.

    Raises:
        FileExistsError: The folder holds files, and is not that of a comparison.
        ValueError: The folder holds the comparison of other data or settings, or is damaged.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], images: int) -> None:
        self.file: Path = folder / "cells.csv"
        record = folder / "settings.json"
        if not record.exists():
            _check_empty(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(record, json.dumps(jsonable(config), indent=2))
        with reading(record):
            saved = read_json(record)
        for name, value in jsonable(config).items():
            if value != saved.get(name):
                raise ValueError(
                    f"{folder} holds a comparison with other settings: {name} was "
                    f"{saved.get(name)!r} and is {value!r}. Use another --out"
                )
        if self.file.exists():
            with reading(self.file):
                self._read(images)

    def _read(self, images: int) -> None:
        text = self.file.read_text(encoding="utf-8")
        table = csv.DictReader(text.splitlines(), restkey="more")
        try:
            names = table.fieldnames
            rows = list(table)
        except csv.Error as error:  # such as a field of 200,000 characters
            raise ValueError(f"it is no table ({error})") from None
        if names != list(_COLUMNS):
            raise ValueError(f"its columns are {names}; those of cells are {_COLUMNS}")
        for line, row in enumerate(rows, start=2):
            if None in row.values() or "more" in row:
                raise ValueError(f"line {line} must have {len(_COLUMNS)} fields; {_REMOVE}")
            packed = np.frombuffer(base64.b64decode(row["right"], validate=True), np.uint8)
            right = np.unpackbits(packed, count=images) > 0
            cell = Cell(right, float(row["seconds"]))
            complete = len(packed) == math.ceil(images / 8)
            if not complete or f"{cell.accuracy:.4f}" != row["accuracy"]:
                raise ValueError(f"line {line} is damaged or cut; {_REMOVE}")
            self[row["augmentation"], int(row["seed"])] = cell

    def add(self, augmentation: str, seed: int, right: Any, seconds: float) -> None:
        """Keep a cell, in memory and on disk."""
        self.add_all({(augmentation, seed): Cell(np.asarray(right), seconds)})

    def add_all(self, cells: Mapping[tuple[str, int], Cell]) -> None:
        """Keep cells, in memory and on disk."""
        self.update(cells)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for (name, number), cell in self.items():
            packed = base64.b64encode(np.packbits(cell.right).tobytes()).decode()
            table.writerow((name, number, f"{cell.accuracy:.4f}", f"{cell.seconds:.2f}", packed))
        write_text(self.file, text.getvalue())

    @property
    def seconds(self) -> float:
        """Time of all cells."""
        return sum(cell.seconds for cell in self.values())


def _check_empty(folder: Path) -> None:
    """Raise FileExistsError if there is anything in a folder but hidden files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a comparison is a folder: use another --out")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if names:
        raise FileExistsError(
            f"{folder} holds {names[0]!r} and no settings.json of a comparison: use a new or empty "
            "--out"
        )
