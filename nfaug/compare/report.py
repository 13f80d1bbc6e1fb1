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
from nfaug.io.manifest import reading
from nfaug.io.strict_json import jsonable, read_json

from .settings import POLICIES, SAFE, Augmentation, CompareSettings

__all__ = ["Cell", "Cells", "Comparison", "Gain", "gain_of"]

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
        settings: What the cells depend on.
        images: The number of validation images.

    Raises:
        FileExistsError: The folder holds files, and is not that of a comparison.
        ValueError: The folder holds the comparison of other data or settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], images: int) -> None:
        self.file = folder / "cells.csv"
        record = folder / "settings.json"
        if not record.exists():
            _check_empty(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(record, json.dumps(jsonable(settings), indent=2))
        with reading(record):
            saved = read_json(record)
        for name, value in jsonable(settings).items():
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
            right = np.frombuffer(base64.b64decode(row["right"], validate=True), np.uint8)
            cell = Cell(np.unpackbits(right, count=images) > 0, float(row["seconds"]))
            whole = len(right) == math.ceil(images / 8) and text.endswith("\n")
            if not whole or f"{cell.accuracy:.4f}" != row["accuracy"]:
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
        return sorted({s for _, s in self if all((row.name, s) in self for row in rows)})

    @property
    def seconds(self) -> float:
        """Time of all cells."""
        return sum(cell.seconds for cell in self.values())


def _check_empty(folder: Path) -> None:
    """Raise FileExistsError if there is anything in a folder but hidden files."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a comparison is a folder: use another --out")
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    held = sorted(name for name in names if not name.startswith("."))
    if held:
        raise FileExistsError(
            f"{folder} holds {held[0]!r} and no settings.json of a comparison: use a new or empty "
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
    pairs = list(zip(ours, others, strict=True))
    points, n = [a.accuracy - b.accuracy for a, b in pairs], len(pairs)
    seeds = _student(n) * statistics.stdev(points) / n**0.5 if n > 1 else math.inf
    changes = np.mean([a.right.astype(float) - b.right for a, b in pairs], axis=0)
    images = 196 * float(changes.std()) / len(changes) ** 0.5
    return Gain(statistics.fmean(points), seeds, images)


def _student(count: int) -> float:
    """Half of a 95% interval of the mean of `count` numbers, in standard errors."""
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1))


class Comparison:
    """The rows of a comparison.

    Attributes:
        settings: What was compared.
        seeds: The seeds that every row has.
        rows: The safe augmentations alone, then the others from the largest gain to the smallest.
    """

    def __init__(self, settings: CompareSettings, cells: Cells) -> None:
        self.settings, self.seconds, rows = settings, cells.seconds, settings.augmentations()
        self.seeds = cells.seeds(rows)
        self._safe = " and ".join(SAFE[word] for word in settings.safe) or "nothing"
        self._cells = {row: [cells[row.name, seed] for seed in self.seeds] for row in rows}
        self.rows = [rows[0], *sorted(rows[1:], key=lambda row: -self.gain(row, rows[0]).mean)]

    def accuracy(self, row: Augmentation) -> float:
        """Mean accuracy in per cent."""
        return statistics.fmean(cell.accuracy for cell in self._cells[row])

    def gain(self, ours: Augmentation, other: Augmentation | None = None) -> Gain:
        """The gain of a row over another one, by default over the safe augmentations alone."""
        return gain_of(self._cells[ours], self._cells[other or self.rows[0]])

    def best(self) -> Augmentation | None:
        """Of the rows with a clear gain, the simplest that the largest does not clearly beat."""
        clear = [row for row in self.rows[1:] if self.gain(row).mean > self.gain(row).half]
        equal = [r for r in clear if (above := self.gain(clear[0], r)).mean <= above.half]
        return min(equal, key=lambda row: bool(row.flow) + bool(row.policy), default=None)

    def advice(self) -> str:
        """One sentence: what to use on these images, or what would settle it."""
        best, first, seeds = self.best(), self.rows[1], len(self.seeds)
        if best is not None:
            other = next(row for row in self.rows[1:] if bool(row.flow) != bool(best.flow))
            difference = self.gain(best, other)
            clear = abs(difference.mean) > difference.half
            known = f"{difference} points against" if clear else "about the same as"
            over = f"{self.gain(best)} points of accuracy over {self._safe} alone"
            return f"Use {best.title}: {over}, and {known} {other.title}."
        if seeds == 1:
            more = "--seeds" if self.settings.seeds == 1 else "--minutes"
            return f"One seed says nothing about chance: give it more {more}."
        gain = self.gain(first)
        if gain.mean <= 0:
            return f"Nothing gained accuracy over {self._safe} alone: keep what you have."
        text = f"Nothing is clear of zero; the largest gain is that of {first.title}, {gain}."
        if gain.images >= gain.mean:
            times = 1.5 * (gain.images / gain.mean) ** 2
            more = f"{times:.0f} times as many validation images (--test-data)"
        else:
            reach = gain.seeds * 1.96 / _student(seeds)  # of many seeds
            ratio = max(1 + 1 / seeds, reach**2 / (gain.mean**2 - gain.images**2))
            minutes = math.ceil(self.seconds * ratio / 60)
            more = f"--seeds {math.ceil(seeds * ratio)} --minutes {minutes}"
        return f"{text} {more} would settle it."

    def code(self) -> str:
        """Lines to paste into a training script; empty if no gain is clear of zero."""
        chosen = self.best()
        if chosen is None:
            return ""
        p, policy = self.settings.p, chosen.policy and POLICIES[chosen.policy][1]
        audio = "import torch\nimport torchaudio\n" if "torchaudio" in (policy or "") else ""
        imports = f"{audio}from torchvision.transforms import v2\n\n"
        if not chosen.flow:
            return f"{imports}transform = {policy}"
        fitted = f'nfaug.fit("{chosen.flow}", train_set)'
        if policy:  # which follows NFA, as it does in a transform of the bank
            return f"""{imports}bank = nfaug.bank.make_bank({fitted}, train_set, "my-bank")
train_set = nfaug.bank.BankDataset(train_set, bank, {p:g}, {policy})"""
        return f"""nfa = nfaug.NFAugment({fitted}, p={p:g})
images, labels = nfa(images, labels)  # in the training loop"""

    def text(self) -> str:
        """The report in Markdown: advice, table, method, code."""
        given, lines = self.settings, list[str]()
        for row in self.rows:
            gain = "" if row is self.rows[0] else self.gain(row)
            lines.append(f"| {row.title} | {self.accuracy(row):.1f} | {gain} |")
        table, code = "\n".join(lines), self.code()
        pasted = f"\n```python\n{code}\n```\n" if code else ""
        return f"""{self.advice()}

| on top of {self._safe} | accuracy, % | gain, points |
|---|---|---|
{table}

{given.network}, {given.per_class or "all"} labels a class, {given.steps} steps, {len(self.seeds)} \
seed{"s" * (len(self.seeds) > 1)}, {self.seconds:.0f} s. ± is a 95% interval over seeds and \
validation images.
{pasted}"""

    def plot(self) -> bytes:
        """A PNG picture of gains and their intervals: NFA in one colour, the rest in another."""
        from matplotlib.figure import Figure

        rows, picture = self.rows[1:], io.BytesIO()
        figure = Figure(figsize=(7, 0.8 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for height, row in enumerate(rows):
            colour, gain = "tab:red" if row.flow else "tab:gray", self.gain(row)
            axes.errorbar(gain.mean, height, xerr=gain.half, fmt="o", color=colour, capsize=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        base = f"{self._safe} alone ({self.accuracy(self.rows[0]):.1f}%)"
        axes.set_xlabel(f"points of accuracy over {base}")
        axes.invert_yaxis()
        figure.savefig(picture, format="png", dpi=150)
        return picture.getvalue()
