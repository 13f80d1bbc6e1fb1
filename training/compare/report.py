"""The result of a comparison: a table, a plot, a sentence of advice and the code to paste."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfaug.io.atomic import write_bytes, write_text

from .cells import Cell, Cells
from .settings import SAFE, Augmentation, CompareSettings

__all__ = ["Comparison", "Gain", "gain_of"]

SAFE_ALONE = Augmentation()


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
        """Rounded to what can be told apart: +4 ± 1, +2.1 ± 0.6; without ± for a single seed."""
        if math.isinf(self.half):
            return f"{self.mean:+.1f}"
        digits = 0 if self.half >= 0.95 else 1
        return f"{round(self.mean, digits) + 0.0:+.{digits}f} ± {self.half:.{digits}f}"


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
        self._safe = " and ".join(SAFE[word] for word in settings.safe) or "nothing"
        self._cells = {each: [cells[each.name, s] for s in self.seeds] for each in augmentations}
        first, *others = augmentations
        self.rows = [first, *sorted(others, key=lambda row: -self.gain(row).mean)]

    def accuracy(self, row: Augmentation) -> float:
        """Mean accuracy in per cent."""
        return statistics.fmean(cell.accuracy for cell in self._cells[row])

    def gain(self, ours: Augmentation, other: Augmentation = SAFE_ALONE) -> Gain:
        """The gain of a row over another one, by default over the safe augmentations alone."""
        return gain_of(self._cells[ours], self._cells[other])

    def best(self) -> Augmentation | None:
        """Of the rows with a clear gain, the simplest that the largest does not clearly beat."""
        clear = [r for r in self.rows[1:] if self.gain(r).clear and self.gain(r).mean > 0]
        equal = [r for r in clear if r is clear[0] or not self.gain(clear[0], r).clear]
        return min(equal, key=lambda row: row.parts, default=None)

    def advice(self) -> str:
        """One sentence: what to use on these images, or what would settle it."""
        best, first = self.best(), self.rows[1]
        if best is not None:
            other = next(row for row in self.rows[1:] if bool(row.flow) != bool(best.flow))
            difference = self.gain(best, other)
            known = f"{difference} points against" if difference.clear else "about the same as"
            over = f"{self.gain(best)} points of accuracy over {self._safe} alone"
            return f"Use {best.title}: {over}, and {known} {other.title}."
        if len(self.seeds) == 1:
            return "One seed says nothing about chance: give it more --minutes."
        gain = self.gain(first)
        if gain.mean <= 0:
            return f"Nothing gained accuracy over {self._safe} alone: keep what you have."
        text = f"Nothing is clear of zero; the largest gain is that of {first.title}, {gain}."
        if gain.images >= gain.mean:
            times = 1.5 * (gain.images / gain.mean) ** 2
            more = f"{times:.0f} times as many validation images (--test-data)"
        else:
            from scipy.stats import t as student

            reach = 1.96 / float(student.ppf(0.975, len(self.seeds) - 1))  # of many seeds
            ratio = (reach * gain.seeds) ** 2 / (gain.mean**2 - gain.images**2)
            ratio = max(ratio, 1 + 1 / len(self.seeds))
            seeds, minutes = len(self.seeds) * ratio, self.seconds * ratio / 60
            more = f"--seeds {math.ceil(seeds)} --minutes {math.ceil(minutes)}"
        return f"{text} {more} would settle it."

    def code(self) -> str:
        """Lines to paste into a training script."""
        chosen = self.best() or next(row for row in self.rows if row.flow)
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
            gain = "" if row is self.rows[0] else self.gain(row)
            lines.append(f"| {row.title} | {self.accuracy(row):.1f} | {gain} |")
        table = "\n".join(lines)
        seeds = "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"""{self.advice()}

{table}

{network}, {"all" if few is None else few} labels a class, {self.settings.steps} steps, {seeds}, \
{self.seconds:.0f} s. ± is a 95% interval over seeds and validation images.

```python
{self.code()}
```
"""

    def write(self, folder: Path) -> None:
        """Write table.md and, from two seeds on, gains.png."""
        write_text(folder / "table.md", self.text())
        if len(self.seeds) > 1:
            picture = io.BytesIO()
            self.plot().savefig(picture, format="png", dpi=150)
            write_bytes(folder / "gains.png", picture.getvalue())

    def plot(self) -> Any:
        """A figure of gains and their intervals: NFA in one colour, the rest in another."""
        from matplotlib.figure import Figure

        rows = self.rows[1:]
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
        return figure
