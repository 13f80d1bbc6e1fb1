"""The result of a comparison: a table, a plot, a sentence of advice and the code to paste."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfaug.io.atomic import write_picture, write_text

from .cells import Cell, Cells
from .settings import PIXELS, Augmentation, CompareSettings

__all__ = ["Comparison", "Gain", "Row", "gain_of"]


@dataclass(frozen=True)
class Gain:
    """A mean gain in points of accuracy, with half-widths of its 95% interval.

    Attributes:
        mean: The mean over seeds.
        seeds: Half-width over seeds: Student's t_(n-1) s / sqrt(n), within seeds.
        images: Half-width over validation images: 1.96 s / sqrt(N).
    """

    mean: float
    seeds: float
    images: float

    @property
    def half(self) -> float:
        """The half-width of the interval: the root of the sum of squares."""
        return math.hypot(self.seeds, self.images)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        digits = 0 if self.half >= 2 else 1
        half = "" if math.isinf(self.half) else f" ± {self.half:.{digits}f}"
        return f"{self.mean:+.{digits if half else 1}f}{half}"


def gain_of(ours: Sequence[Cell], others: Sequence[Cell]) -> Gain:
    """The gain of cells over others, with the same seeds in the same order."""
    from scipy.stats import t as student

    pairs = list(zip(ours, others, strict=True))
    differences = [a.accuracy - b.accuracy for a, b in pairs]
    count, seeds = len(pairs), math.inf
    if count > 1:
        seeds = float(student.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    changes = np.mean([a.right.astype(float) - b.right for a, b in pairs], axis=0)
    return Gain(
        statistics.fmean(differences), seeds, 196 * float(changes.std()) / len(changes) ** 0.5
    )


@dataclass(frozen=True)
class Row:
    """An augmentation, its mean accuracy in per cent, and its gain over the first row."""

    augmentation: Augmentation
    accuracy: float
    gain: Gain

    @property
    def title(self) -> str:
        """The augmentation's name in the table."""
        return self.augmentation.title


class Comparison:
    """The rows of a comparison.

    Attributes:
        settings: What was compared.
        seeds: The seeds that every row has.
        rows: The safe augmentations alone, then the others from the largest gain to the smallest.
    """

    def __init__(
        self, settings: CompareSettings, augmentations: Sequence[Augmentation], cells: Cells
    ) -> None:
        self.settings, self.seconds = settings, cells.seconds
        self.seeds = cells.seeds([each.name for each in augmentations])
        self._safe = " and ".join(settings.safe) or "no augmentation"
        self._cells = {each: [cells[each.name, s] for s in self.seeds] for each in augmentations}
        self.rows: list[Row] = []
        if self.seeds:
            first, *others = map(self._row, augmentations)
            self.rows = [first, *sorted(others, key=lambda row: -row.gain.mean)]

    def _row(self, augmentation: Augmentation) -> Row:
        accuracy = statistics.fmean(cell.accuracy for cell in self._cells[augmentation])
        return Row(augmentation, accuracy, self.gain(augmentation, Augmentation()))

    def gain(self, ours: Augmentation, other: Augmentation) -> Gain:
        """The gain of one row over another."""
        return gain_of(self._cells[ours], self._cells[other])

    def best(self) -> Row | None:
        """Of the clear gains, the simplest that the largest does not clearly beat."""
        clear = [row for row in self.rows[1:] if row.gain.clear and row.gain.mean > 0]
        equal = [
            row
            for row in clear
            if row is clear[0] or not self.gain(clear[0].augmentation, row.augmentation).clear
        ]
        return min(equal, key=lambda row: row.augmentation.parts, default=None)

    def advice(self) -> str:
        """One sentence: what to use on these images, or what would settle it."""
        best, first = self.best(), self.rows[1]
        if best is not None:
            text = f"Use {best.title}: {best.gain} points of accuracy over {self._safe} alone"
            others = [
                r
                for r in self.rows[1:]
                if bool(r.augmentation.flow) != bool(best.augmentation.flow)
            ]
            difference = self.gain(best.augmentation, others[0].augmentation)
            known = f"{difference} points against" if difference.clear else "about the same as"
            return f"{text}, and {known} {others[0].title}."
        if len(self.seeds) == 1:
            return "One seed says nothing about chance: give it more --minutes."
        if first.gain.mean <= 0:
            return f"Nothing gained accuracy over {self._safe} alone: keep what you have."
        text = f"Nothing is clear of zero; the largest gain is that of {first.title}, {first.gain}."
        if first.gain.images >= first.gain.mean:
            images = 1.5 * (first.gain.images / first.gain.mean) ** 2
            more = f"{images:.0f} times as many validation images (--test-data)"
            return f"{text} {more} would settle it."
        ratio = first.gain.seeds**2 / (first.gain.mean**2 - first.gain.images**2)
        seeds, minutes = len(self.seeds) * ratio, self.seconds * ratio / 60
        return f"{text} --seeds {seeds:.0f} --minutes {math.ceil(minutes)} would settle it."

    def code(self) -> str:
        """Lines to paste into a training script."""
        best = self.best()
        chosen = best.augmentation if best is not None else Augmentation(PIXELS)
        policies = {
            "randaugment": "transform = v2.RandAugment(2, 9)  # from torchvision.transforms",
            "trivialaugment": "transform = v2.TrivialAugmentWide()  # from torchvision.transforms",
            "specaugment": "# then mask frequencies and times, as torchaudio.transforms do",
        }
        nfa = (
            f'nfa = nfaug.NFAugment(nfaug.fit("{chosen.flow}", train_set), p={self.settings.p:g})\n'
            "images, labels = nfa(images, labels)  # in the training loop"
        )
        parts = [nfa if chosen.flow else "", policies.get(chosen.policy, "")]
        return "\n".join(filter(None, parts))

    def text(self) -> str:
        """The report in Markdown: advice, table, method, code."""
        few, network = self.settings.per_class, self.settings.network
        lines = [f"| on top of {self._safe} | accuracy, % | gain, points |", "|---|---|---|"]
        for row in self.rows:
            gain = "" if row is self.rows[0] else row.gain
            lines.append(f"| {row.title} | {row.accuracy:.1f} | {gain} |")
        table = "\n".join(lines)
        return f"""{self.advice()}

{table}

{network}, {"all" if few is None else few} labels a class, {self.settings.steps} steps, \
{len(self.seeds)} seeds, {self.seconds:.0f} s. ± is a 95% interval over seeds and validation images.

```python
{self.code()}
```
"""

    def write(self, folder: Path) -> None:
        """Write table.md and, from two seeds on, gains.png."""
        write_text(folder / "table.md", self.text())
        if len(self.seeds) > 1:
            write_picture(folder / "gains.png", self.plot())

    def plot(self) -> Any:
        """Gains and their intervals as a PIL image: NFA in one colour, the rest in another."""
        from matplotlib.figure import Figure

        from nfaug.training.run.pictures import figure_image

        rows = self.rows[1:]
        figure = Figure(figsize=(7, 0.8 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for height, row in enumerate(rows):
            colour = "tab:red" if row.augmentation.flow else "tab:gray"
            axes.errorbar(
                row.gain.mean, height, xerr=row.gain.half, fmt="o", color=colour, capsize=3
            )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_xlabel(
            f"points of accuracy over {self._safe} alone ({self.rows[0].accuracy:.1f}%)"
        )
        axes.invert_yaxis()
        return figure_image(figure)
