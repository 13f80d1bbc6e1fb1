"""The cells of a comparison in a folder, what they depend on, and how often they were looked at."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfaug.io.atomic import write_text
from nfaug.io.errors import reading
from nfaug.io.facts import Facts
from nfaug.io.numbers import check_whole

from .config import MOST_SEEDS
from .figures import Cell

_COLUMNS = ("augmentation", "seed", "accuracy", "seconds", "right")
_LEFT = "left"  # a sixth column, if the training loss was kept
_REMOVE = "remove this line, and the same command trains its classifier again"


class Cells(dict[tuple[str, int], Cell]):
    """The cells of a folder by method and seed; on disk as soon as they are known.

    Args:
        folder: A new or empty folder, or that of the same comparison.
        facts: What the cells depend on.
        images: The number of test images.

    Raises:
        FileExistsError: The folder holds files, and is not that of a comparison.
        ValueError: The folder holds the comparison of other data or settings, or is damaged.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], images: int) -> None:
        self.file: Path = folder / "cells.csv"
        self.record: Path = folder / "settings.json"
        asked = Facts(facts)
        if not self.record.exists():
            _check_empty(folder)
            folder.mkdir(parents=True, exist_ok=True)
            asked.save(self.record)
        saved = Facts.read(self.record)
        saved.pop("seeds", None)  # a comparison goes on with more
        asked.check_same(saved, *_found(folder))
        if self.file.exists():
            with reading(self.file):
                self._read(images)

    def _read(self, images: int) -> None:
        # Lines end in a line feed, and in no other character that Unicode knows as a line's end.
        with self.file.open(encoding="utf-8", newline="\n") as opened:
            table = csv.DictReader(opened, restkey="more")
            try:
                names = tuple(table.fieldnames or ())
                lines = list(table)
            except csv.Error as error:  # such as a field of 200,000 characters
                raise ValueError(f"it is no table ({error})") from None
        if names not in (_COLUMNS, (*_COLUMNS, _LEFT)):
            raise ValueError(f"its columns are {names}; those of cells are {_COLUMNS}")
        for number, line in enumerate(lines, start=2):
            if None in line.values() or "more" in line:
                raise ValueError(f"line {number} must have {len(names)} fields; {_REMOVE}")
            packed = np.frombuffer(base64.b64decode(line["right"], validate=True), np.uint8)
            right = np.unpackbits(packed, count=images) > 0
            cell = Cell(right, float(line["seconds"]), float(line.get(_LEFT) or math.nan))
            complete = len(packed) == math.ceil(images / 8)
            if not complete or f"{cell.accuracy:.4f}" != line["accuracy"]:
                raise ValueError(f"line {number} is damaged or cut; {_REMOVE}")
            self[line["augmentation"], int(line["seed"])] = cell

    def add(self, method: str, seed: int, right: Any, seconds: float) -> None:
        """Keep a cell, in memory and on disk."""
        self.add_all({(method, seed): Cell(np.asarray(right), seconds)})

    def add_all(self, cells: Mapping[tuple[str, int], Cell]) -> None:
        """Keep cells, in memory and on disk."""
        self.update(cells)
        with_loss = any(not math.isnan(cell.left) for cell in self.values())
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow((*_COLUMNS, _LEFT) if with_loss else _COLUMNS)
        # The order does not depend on which of several processes was faster.
        for (name, seed), cell in sorted(self.items(), key=lambda item: item[0][::-1]):
            packed = base64.b64encode(np.packbits(cell.right).tobytes()).decode()
            line = [name, seed, f"{cell.accuracy:.4f}", f"{cell.seconds:.2f}", packed]
            if with_loss:
                line.append("" if math.isnan(cell.left) else f"{cell.left:.4f}")
            table.writerow(line)
        write_text(self.file, text.getvalue())

    def whole_seeds(self, methods: list[str]) -> int:
        """How many seeds, from seed 0 on, have a cell of each of these methods."""
        seed = 0
        while all((method, seed) in self for method in methods):
            seed += 1
        return seed

    def look(self, seeds: int) -> int:
        """Record how many seeds are asked for, which is a look at the results.

        Returns:
            The number of earlier looks, each of which asked for fewer seeds.

        Raises:
            ValueError: An earlier call asked for more seeds.
        """
        saved = Facts.read(self.record)
        with reading(self.record):
            looks = _looks(saved.get("seeds", []))
        if looks and seeds < looks[-1]:
            raise ValueError(
                f"{self.file.parent} holds a comparison of {looks[-1]} seeds, and seeds is "
                f"{seeds}: go on with that number (--seeds) or more, or use another --out"
            )
        if seeds not in looks:
            looks.append(seeds)
            Facts(saved | {"seeds": looks}).save(self.record)
        return len(looks) - 1

    @property
    def seconds(self) -> float:
        """Time of all cells."""
        return sum(cell.seconds for cell in self.values())


def _looks(saved: object) -> list[int]:
    """The numbers of seeds that a folder was asked for, checked as those that a user passes."""
    if not isinstance(saved, list):
        raise ValueError(f"seeds must be a list of numbers; got {saved!r:.80}")
    looks = [check_whole("seeds", number, 1, MOST_SEEDS) for number in saved]
    if looks != sorted(set(looks)):
        raise ValueError(f"the numbers of seeds must increase; got {looks!r:.80}")
    return looks


def check_format(folder: Path, expected: int) -> None:
    """Raise FileError if a folder holds the comparison of another version of nfaug."""
    record = folder / "settings.json"
    if record.exists():
        Facts.read(record).check_format(expected, *_found(folder))


def _found(folder: Path) -> tuple[str, str]:
    """What a folder holds, and what to do if it is another comparison."""
    return f"{folder} holds a comparison", "Use another --out"


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
