"""The results of a comparison: a table, a plot, advice and a script to paste."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from ..cells import Cells
from ..config import SAFE, CompareConfig
from ..rows import Row
from ..work import Strength
from .advice import Finding, finding_of, gain_between, limited_by_images, seeds_needed
from .figures import LEAST_SEEDS, Cell, Gain, level_of_look
from .pictures import Bar, gains_picture

__all__ = ["Comparison"]

_MANY_TIMES = 10  # as many images to judge by are more than anyone adds
_DOUBTED = 5  # names of images that are shown


class Comparison:
    """The rows of a comparison: each adds something to the safe augmentations. `compare` makes it.

    Args:
        config: What was compared.
        cells: The accuracy of each classifier.
        look, processes, names, notes: See the attributes; `names` are those of the images to judge
            by, and `notes` come after the others.

    Example:
        >>> import tempfile
        >>> from nfaug import open_dataset
        >>> from nfaug.compare import CompareConfig, compare
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, rows="none,nfa", seeds=3, steps=5)
        >>> comparison = compare(digits, tempfile.mkdtemp(), config=config, progress=False)
        >>> first, pixels = comparison.rows
        >>> comparison.seeds
        [0, 1, 2]

    Attributes:
        config: What was compared.
        rows: The rows that were computed, in the order of cost.
        left_out: The rows for which there was no time.
        seconds: Seconds of all cells, on one process each.
        processes: How many of them ran at once.
        look: The number of this look at the results; see `level_of_look`.
        script: A Python script that trains as the row to use did; empty before the report.
        timm: The commands that do so with timm's train.py, if it can.
    """

    def __init__(
        self,
        config: CompareConfig,
        cells: Cells,
        *,
        look: int = 1,
        processes: int = 1,
        names: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.config: CompareConfig = config
        self.seconds: float = cells.seconds
        self.look: int = look
        self.processes: int = processes
        self.script: str = ""
        self.timm: list[str] = []
        self._names: Sequence[str] = names
        self._notes: Sequence[str] = notes
        self._cells: dict[Row, dict[int, Cell]] = {}
        self.left_out: list[Row] = []
        for row in config.table():
            found = {seed: cells[row.name, seed] for seed in cells.seeds(row)}
            if found:
                self._cells[row] = found
            else:
                self.left_out.append(row)
        self.rows: list[Row] = list(self._cells)
        self._is_ladder: bool = any(row.frozen for row in self.rows)
        self._safe: str = " and ".join(SAFE[word] for word in config.safe) or "nothing"

    @property
    def seeds(self) -> list[int]:
        """The seeds that every row has."""
        common = set.intersection(*(set(found) for found in self._cells.values()))
        return sorted(common)

    def seeds_of(self, row: Row) -> list[int]:
        """The seeds of a row.

        Args:
            row: One of `rows`.

        Returns:
            Their numbers, in order.

        Example:
            >>> comparison.seeds_of(pixels)
            [0, 1, 2]
        """
        return sorted(self._cells[row])

    def accuracy(self, row: Row) -> float:
        """The mean accuracy of a row over its seeds.

        Args:
            row: One of `rows`.

        Returns:
            Per cent.

        Example:
            >>> 0 < comparison.accuracy(first) <= 100
            True
        """
        return statistics.fmean(cell.accuracy for cell in self._cells[row].values())

    def cost(self, row: Row) -> float:
        """What one classifier of a row takes.

        Args:
            row: One of `rows`.

        Returns:
            Mean seconds of a seed, on one process.

        Example:
            >>> comparison.cost(first) > 0
            True
        """
        return statistics.fmean(cell.seconds for cell in self._cells[row].values())

    def strength(self, row: Row) -> Strength:
        """How strongly a row augments.

        Args:
            row: One of `rows`.

        Returns:
            The strength that most of its seeds have.

        Example:
            >>> comparison.strength(pixels).p
            0.5
        """
        chosen = [cell.strength for cell in self._cells[row].values() if cell.strength]
        if not chosen:
            return Strength(self.config.p, self.config.magnitude)
        return Strength.parse(statistics.mode(chosen))

    def gain(self, ours: Row, other: Row | None = None) -> Gain:
        """The gain of a row over another one, in the seeds that both have.

        Args:
            ours: The row.
            other: What it is compared with; None for the first row.

        Returns:
            Points of accuracy, with the half-width `half` of the 95% interval.

        Example:
            >>> comparison.gain(pixels).number
            3
        """
        return gain_between(self._cells, ours, other or self.rows[0])

    def title(self, row: Row) -> str:
        """The name of a row in the table.

        Args:
            row: One of `rows`.

        Returns:
            The name.

        Example:
            >>> comparison.title(first), comparison.title(pixels)
            ('nothing more', 'NFA in pixels')
        """
        if row.frozen:
            return f"frozen features, {row.added}" if row.added else "frozen features"
        if self.config.weights is not None:
            return f"fine-tuned, {row.added}" if row.added else "fine-tuned"
        return row.added or "nothing more"

    def finding(self) -> Finding | None:
        """What the figures say.

        Returns:
            The finding; None if no row has three seeds.

        Example:
            >>> comparison.finding().compared
            1
        """
        return finding_of(self.rows, self._cells, self.look)

    def best(self) -> Row | None:
        """The row to use: the cheapest of those that the best one is not clearly above.

        Returns:
            The row; None for the first one, or if there are too few seeds.

        Example:
            >>> comparison.best() in (None, pixels)
            True
        """
        finding = self.finding()
        if finding is None or finding.best == self.rows[0]:
            return None
        return finding.best

    def advice(self) -> str:
        """What to do with these images, or what would settle it.

        Returns:
            A sentence or two.

        Example:
            >>> comparison.advice().endswith(".")
            True
        """
        finding = self.finding()
        if finding is None:
            return self._too_little()
        return self._advice_of(finding) + self._ahead(finding)

    def _ahead(self, finding: Finding) -> str:
        """A sentence on a row that looks better, and has too few seeds for advice."""
        leads = {}
        for row in self.rows[1:]:
            if row in self._cells and len(self._cells[row]) < LEAST_SEEDS:
                leads[row] = self.gain(row).mean
        ahead = max(leads, key=lambda row: leads[row], default=finding.best)
        if leads.get(ahead, 0.0) <= max(0.0, finding.gain.mean):
            return ""
        return (
            f" But {self.title(ahead)} is {leads[ahead]:+.1f} points above {self._base} in "
            f"{len(self._cells[ahead])} of the {LEAST_SEEDS} seeds that advice needs: more "
            "--minutes would tell."
        )

    def _advice_of(self, finding: Finding) -> str:
        """What to do, from the rows of enough seeds."""
        if finding.best != self.rows[0]:
            return self._recommendation(finding)
        keep = f"keep {self._base}"
        if self.rows[0].frozen:
            keep = (
                "freeze the network, and use logistic regression on its features "
                f"({self.accuracy(self.rows[0]):.1f}%)"
            )
        if finding.no_effect:
            return f"Nothing gains a point of accuracy or more: {keep}."
        if finding.gain.mean <= 0:
            return f"Nothing gained accuracy over {self._base}: {keep}."
        return (
            f"Nothing is clear of zero: {keep}, for now. The largest of {finding.compared} gains "
            f"is that of {self.title(finding.largest)}, {finding.gain}. {self._limit(finding)}"
        )

    @property
    def _base(self) -> str:
        """The first row, in a sentence."""
        row = self.rows[0]
        if row.frozen or row.added or self.config.weights is not None:
            return self.title(row)
        return f"{self._safe} alone"

    def _too_little(self) -> str:
        """A sentence on a comparison of fewer than three seeds."""
        if len(self.rows) == 1:
            return f"Only {self.title(self.rows[0])} was computed: give it more --minutes."
        most = max(len(found) for found in self._cells.values())
        option = "--seeds" if self.config.seeds < LEAST_SEEDS else "--minutes"
        count = {1: "One seed says", 2: "Two seeds say"}.get(most, f"{most} seeds of one row say")
        return f"{count} nothing about chance: give it more {option}."

    def _recommendation(self, finding: Finding) -> str:
        """A sentence on the best row, and on those that it is compared with."""
        best = finding.best
        largest = ""
        if finding.compared > 1:
            largest = f" (the largest gains of {finding.compared} look larger than they are)"
        lines = [f"{finding.gain} points of accuracy over {self._base}{largest}"]
        others = []
        if best.plain not in (best, self.rows[0]):
            others.append(best.plain)
        rivals = [
            row
            for row in self.rows[1:]
            if row.frozen == best.frozen and bool(row.flow) != bool(best.flow) and row.added
        ]
        if rivals:
            others.append(max(rivals, key=self.accuracy))
        for other in others:
            if other not in self._cells:
                continue
            lead = self.gain(best, other)
            if math.isinf(lead.half):
                continue
            if abs(lead.mean) > lead.half:
                lines.append(f"{lead} points against {self.title(other)}")
            else:
                lines.append(f"about the same as {self.title(other)}")
        text = lines[0]
        if len(lines) > 1:
            text = f"{', '.join(lines[:-1])}, and {lines[-1]}"
        return f"Use {self.title(best)}: {text}."

    def _limit(self, finding: Finding) -> str:
        """What limits a gain that is not clear, seeds or images, and what would settle it."""
        gain = finding.gain
        if limited_by_images(gain):
            left = gain.mean**2 - gain.seeds**2
            times = (gain.images**2 / left) if left > 0 else math.inf
            times = max(1.5 * times, 2)
            most = f"What it gains is {gain.mean + gain.half:.0f} points at most"
            if times > _MANY_TIMES:
                return f"The images to judge by limit it: {most.lower()}."
            return (
                "The images to judge by limit it: "
                f"{times:.0f} times as many (--test-data) would settle a gain of that size."
            )
        seeds = seeds_needed(gain, finding.compared, self.look)
        most = f"{gain.mean + gain.half:.0f} points"
        if seeds > _MANY_TIMES * gain.number:
            return f"The number of seeds limits it: what it gains is {most} at most."
        minutes = self.seconds / self.processes / 60 * seeds / gain.number
        return (
            f"The number of seeds limits it: --seeds {seeds} --minutes {math.ceil(minutes)} would "
            "settle a gain of that size."
        )

    def text(self) -> str:
        """The report: advice, table and method.

        Returns:
            Markdown.

        Example:
            >>> "| NFA in pixels |" in comparison.text()
            True
        """
        seconds = "seconds a seed"
        if self._is_ladder:
            head = f"| | accuracy, % | gain over {self._base} | over the row without it | seeds |"
        else:
            head = f"| on top of {self._safe} | accuracy, % | gain, points | seeds |"
        lines = [f"{head} {seconds} |", "|---" * (head.count("|")) + "|"]
        finding = self.finding()
        for row in self.rows:
            cells = [self.title(row), f"{self.accuracy(row):.1f}"]
            gain = "" if row == self.rows[0] else self._shown(row, self.rows[0])
            if finding is not None and row == finding.best and gain:
                gain = f"**{gain}**"
            cells.append(gain)
            if self._is_ladder:
                needless = row == row.plain or row.plain == self.rows[0]
                cells.append("" if needless else self._shown(row, row.plain))
            cells += [str(len(self._cells[row])), f"{self.cost(row):.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        table = "\n".join(lines)
        notes = "\n".join(f"- {note}" for note in self.notes())
        return f"{self.advice()}\n\n{table}\n\n{notes}\n"

    def _shown(self, row: Row, other: Row) -> str:
        """A gain over a row that may have no cells."""
        return str(self.gain(row, other)) if other in self._cells else ""

    def notes(self) -> list[str]:
        """What the figures are, and what they are not.

        Returns:
            Sentences, each without a bullet.

        Example:
            >>> "5 labelled" in comparison.notes()[0]
            True
        """
        config = self.config
        labels = "all labelled images"
        if config.per_class is not None:
            labels = f"{config.per_class} labelled images per class"
        first = f"{config.network}, {labels}, {config.steps} steps"
        if config.lr is not None:
            first += f", learning rate {config.lr:g}"
        wall = self.seconds / self.processes
        at_once = f", {self.processes} at once" if self.processes > 1 else ""
        notes = [f"{first}; {wall:.0f} s in all{at_once}."]
        tail = 100 * level_of_look(self.look)
        notes.append(
            "Gains are over the seeds that both rows have. ± is a 95% interval of one row over "
            "seeds and images to judge by, from three seeds on. The advice asks for more: all rows "
            f"together err in {tail:g}% of comparisons at most (this is look {self.look} at these "
            "results; each has half the level of the one before)."
        )
        if config.per_class is None:
            notes.append(
                "Every seed has the same labelled images: the intervals hold no variation of them."
            )
        if config.tune:
            notes.append(self._chosen())
        elif any(row.added for row in self.rows):
            notes.append(
                f"Strengths are fixed: p = {config.p:g}, RandAugment(2, {config.magnitude}). "
                "--tune chooses them inside the labelled images."
            )
        if self.left_out:
            names = ", ".join(self.title(row) for row in self.left_out)
            notes.append(f"Left out, for want of time: {names}. The same command goes on.")
        doubted = self._doubted()
        if doubted:
            notes.append(doubted)
        return [*notes, *self._notes]

    def _chosen(self) -> str:
        """The strengths that --tune chose."""
        found = []
        for row in self.rows:
            if row.added:
                chosen = sorted({cell.strength for cell in self._cells[row].values()})
                found.append(f"{self.title(row)}: {', '.join(chosen)}")
        return f"Strengths chosen inside the labelled images of each seed: {'; '.join(found)}."

    def _doubted(self) -> str:
        """The images that nothing gets right, whose labels may be wrong."""
        cells = [cell for found in self._cells.values() for cell in found.values()]
        if len(cells) < 2 * LEAST_SEEDS or not self._names:
            return ""
        wrong = np.flatnonzero(~np.any([cell.right for cell in cells], axis=0))
        if not len(wrong):
            return ""
        names = ", ".join(self._names[index] for index in wrong[:_DOUBTED])
        return (
            f"{len(wrong)} of {len(self._names)} images to judge by are wrong in every row and "
            f"seed: their labels may be wrong, or the images too hard ({names}"
            f"{', ...' if len(wrong) > _DOUBTED else ''})."
        )

    def plot(self) -> bytes:
        """A picture of every gain with its interval and its cost.

        Returns:
            A PNG file.

        Example:
            >>> comparison.plot()[1:4]
            b'PNG'
        """
        bars = []
        for row in self.rows[1:]:
            gain = self.gain(row)
            if gain.number:
                bars.append(Bar(self.title(row), gain, self.cost(row), bool(row.flow)))
        first = self.rows[0]
        cost = f"{self.accuracy(first):.1f}%, {self.cost(first):.0f} s"
        return gains_picture(bars, f"{self._base} ({cost})")
