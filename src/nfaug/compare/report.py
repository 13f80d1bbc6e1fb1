"""The results of a comparison: cells in a CSV file, a table, a plot, advice and code to paste."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nfaug.io.atomic import write_text
from nfaug.io.errors import reading
from nfaug.io.strict_json import jsonable, read_json

from .config import POLICIES, SAFE, Augmentation, CompareConfig

__all__ = ["Cell", "Cells", "Comparison", "Gain", "gain_of", "student"]

_COLUMNS = ("augmentation", "seed", "accuracy", "seconds", "right")
_REMOVE = "remove this line, and the same command trains its classifier again"


class Cell(NamedTuple):
    """A trained classifier: which validation images were right, (N,) bool, and its seconds."""

    right: NDArray[np.bool_]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Validation accuracy in per cent."""
        return 100 * float(self.right.mean())


class Cells(dict[tuple[str, int], Cell]):
    """The cells of a folder by augmentation and seed; on disk as soon as they are known.

    Args:
        folder: A new or empty folder, or that of the same comparison.
        config: What the cells depend on.
        images: The number of validation images.

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
        rows = csv.DictReader(text.splitlines(), restkey="more")
        if rows.fieldnames != list(_COLUMNS):
            raise ValueError(f"its columns are {rows.fieldnames}; those of cells are {_COLUMNS}")
        for row in rows:
            if None in row.values() or "more" in row:
                raise ValueError(
                    f"line {rows.line_num} must have {len(_COLUMNS)} fields; {_REMOVE}"
                )
            packed = np.frombuffer(base64.b64decode(row["right"], validate=True), np.uint8)
            cell = Cell(np.unpackbits(packed, count=images) > 0, float(row["seconds"]))
            complete = len(packed) == math.ceil(images / 8) and text.endswith("\n")
            if not complete or f"{cell.accuracy:.4f}" != row["accuracy"]:
                raise ValueError(f"line {rows.line_num} is damaged or cut; {_REMOVE}")
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

    def seeds(self, rows: Sequence[Augmentation]) -> list[int]:
        """The seeds that every one of these rows has."""
        names = {row.name for row in rows}
        complete = []
        for seed in sorted({seed for _, seed in self}):
            if all((name, seed) in self for name in names):
                complete.append(seed)
        return complete

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


class Gain(NamedTuple):
    """A mean gain in points of accuracy, with half-widths of its 95% interval.

    They are t_(n-1) s / sqrt(n) over seeds and 1.96 s / sqrt(N) over validation images.
    """

    mean: float
    seeds: float
    images: float

    @property
    def half(self) -> float:
        """The half-width of the interval: the root of the sum of squares."""
        return math.hypot(self.seeds, self.images)

    def __str__(self) -> str:
        """Rounded to what can be told apart: +4 ± 1, +2.1 ± 0.6; without ± for a single seed."""
        if math.isinf(self.half):
            return f"{self.mean:+.1f}"
        digits = 0 if self.half >= 0.95 else 1
        return f"{round(self.mean, digits) + 0.0:+.{digits}f} ± {self.half:.{digits}f}"


def gain_of(ours: Sequence[Cell], others: Sequence[Cell]) -> Gain:
    """The gain of cells over others, with the same seeds in the same order."""
    points = []  # of accuracy, a seed
    changes = []  # of each image, a seed: 1 if it is right in `ours` alone, -1 in `others` alone
    for cell, other in zip(ours, others, strict=True):
        points.append(cell.accuracy - other.accuracy)
        changes.append(cell.right.astype(float) - other.right)
    count = len(points)
    seeds = math.inf
    if count > 1:
        seeds = student(count) * statistics.stdev(points) / count**0.5
    mean_changes = np.mean(changes, axis=0)
    images = 196 * float(mean_changes.std()) / len(mean_changes) ** 0.5  # 1.96, in per cent
    return Gain(statistics.fmean(points), seeds, images)


# The 97.5% quantiles of Student's t with 1, 2, ... degrees of freedom.
_STUDENT = (
    12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814,
    2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596,
    2.07961, 2.07387, 2.06866, 2.06390, 2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227,
)  # fmt: skip


def student(count: int) -> float:
    """Half of a 95% interval of the mean of `count` numbers, in standard errors.

    From 32 numbers on it is 1.96 + 2.37/(count - 1), right to 0.2%.
    """
    freedom = count - 1
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return 1.96 + 2.37 / freedom


class Comparison:
    """The rows of a comparison.

    Attributes:
        config: What was compared.
        seeds: The seeds that every row has.
        rows: The safe augmentations alone, then the others from the largest gain to the smallest.
    """

    def __init__(self, config: CompareConfig, cells: Cells) -> None:
        rows = config.augmentations()
        self.config: CompareConfig = config
        self.seconds: float = cells.seconds
        self.seeds: list[int] = cells.seeds(rows)
        self._safe: str = " and ".join(SAFE[word] for word in config.safe) or "nothing"
        self._cells: dict[Augmentation, list[Cell]] = {}
        for row in rows:
            self._cells[row] = [cells[row.name, seed] for seed in self.seeds]
        alone = rows[0]
        self.rows: list[Augmentation] = [alone]
        self.rows += sorted(rows[1:], key=lambda row: -self.gain(row, alone).mean)

    def accuracy(self, row: Augmentation) -> float:
        """Mean accuracy in per cent."""
        return statistics.fmean(cell.accuracy for cell in self._cells[row])

    def gain(self, ours: Augmentation, other: Augmentation | None = None) -> Gain:
        """The gain of a row over another one, by default over the safe augmentations alone."""
        return gain_of(self._cells[ours], self._cells[other or self.rows[0]])

    def best(self) -> Augmentation | None:
        """The simplest of the rows that have a clear gain and are as good as the best of them.

        A gain is clear if its interval is above zero. None if no row has one.
        """
        clear = []  # in the order of `rows`, from the largest gain
        for row in self.rows[1:]:
            gain = self.gain(row)
            if gain.mean > gain.half:
                clear.append(row)
        equals = []
        for row in clear:
            lead = self.gain(clear[0], row)
            if lead.mean <= lead.half:
                equals.append(row)
        return min(equals, key=lambda row: bool(row.flow) + bool(row.policy), default=None)

    def advice(self) -> str:
        """One sentence: what to use on these images, or what would settle it."""
        best = self.best()
        if best is not None:
            return self._recommendation(best)
        if len(self.seeds) == 1:
            option = "--seeds" if self.config.seeds == 1 else "--minutes"
            return f"One seed says nothing about chance: give it more {option}."
        largest = self.rows[1]
        gain = self.gain(largest)
        if gain.mean <= 0:
            return f"Nothing gained accuracy over {self._safe} alone: keep what you have."
        return (
            f"Nothing is clear of zero; the largest gain is that of {largest.title}, {gain}. "
            f"{self._what_settles(gain)} would settle it."
        )

    def _recommendation(self, best: Augmentation) -> str:
        """A sentence on the best row and the best one of the other kind, with NFA or without."""
        other = next(row for row in self.rows[1:] if bool(row.flow) != bool(best.flow))
        lead = self.gain(best, other)
        if abs(lead.mean) > lead.half:
            comparison = f"{lead} points against"
        else:
            comparison = "about the same as"
        return (
            f"Use {best.title}: {self.gain(best)} points of accuracy over {self._safe} alone, and "
            f"{comparison} {other.title}."
        )

    def _what_settles(self, gain: Gain) -> str:
        """The images or the seeds that would make a gain, if it is real, clear of zero."""
        if gain.images >= gain.mean:
            times = 1.5 * (gain.images / gain.mean) ** 2
            return f"{times:.0f} times as many validation images (--test-data)"
        seeds = len(self.seeds)
        half = gain.seeds * 1.96 / student(seeds)  # with the factor of many seeds
        ratio = max(1 + 1 / seeds, half**2 / (gain.mean**2 - gain.images**2))
        minutes = math.ceil(self.seconds * ratio / 60)
        return f"--seeds {math.ceil(seeds * ratio)} --minutes {minutes}"

    def code(self) -> str:
        """Lines to paste into a training script; empty if no gain is clear of zero."""
        best = self.best()
        if best is None:
            return ""
        p = self.config.p
        policy = POLICIES[best.policy].code if best.policy else ""
        imports = "from torchvision.transforms import v2\n\n"
        if "torchaudio" in policy:
            imports = "import torch\nimport torchaudio\n" + imports
        if not best.flow:
            return f"{imports}transform = {policy}"
        fit = f'nfaug.fit("{best.flow}", train_set)'
        if policy:  # which follows NFA, as it does in a transform of the bank
            return f"""{imports}bank = nfaug.bank.make_bank({fit}, train_set, "my-bank")
train_set = nfaug.bank.BankDataset(train_set, bank, {p:g}, {policy})"""
        return f"""nfa = nfaug.NFAugment({fit}, p={p:g})
images, labels = nfa(images, labels)  # in the training loop"""

    def text(self) -> str:
        """The report in Markdown: advice, table, method, code."""
        config = self.config
        lines = []
        for row in self.rows:
            gain = "" if row is self.rows[0] else self.gain(row)
            lines.append(f"| {row.title} | {self.accuracy(row):.1f} | {gain} |")
        table = "\n".join(lines)
        labels = config.per_class or "all"
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        code = self.code()
        if code:
            code = f"\n```python\n{code}\n```\n"
        return f"""{self.advice()}

| on top of {self._safe} | accuracy, % | gain, points |
|---|---|---|
{table}

{config.network}, {labels} labels a class, {config.steps} steps, {seeds}, \
{self.seconds:.0f} s. ± is a 95% interval over seeds and validation images.
{code}"""

    def plot(self) -> bytes:
        """A PNG picture of gains and their intervals: NFA in one colour, the rest in another."""
        from matplotlib.figure import Figure

        rows = self.rows[1:]
        figure = Figure(figsize=(7, 0.8 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for height, row in enumerate(rows):
            gain = self.gain(row)
            colour = "tab:red" if row.flow else "tab:gray"
            axes.errorbar(gain.mean, height, xerr=gain.half, fmt="o", color=colour, capsize=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        base = f"{self._safe} alone ({self.accuracy(self.rows[0]):.1f}%)"
        axes.set_xlabel(f"points of accuracy over {base}")
        axes.invert_yaxis()
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        return picture.getvalue()
