"""The results of a comparison: a table, a picture of gains, and advice."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from .advice import Finding, collapsed, finding_of, gain_between
from .cells import Cells
from .config import SAFE, CompareConfig
from .figures import ERRORS, LEAST_IMAGES, LEAST_SEEDS, Cell, Gain
from .images import Images
from .next_steps import paste
from .pictures import Bar, gains_picture
from .plan import Plan
from .rows import Row, titles_of

_DOUBTED = 5  # names of images that are shown
_SURE = 90.0  # per cent: an image that so good classifiers all get wrong may have a wrong label


class Comparison:
    """The rows of a comparison: each adds something to the safe augmentations. `compare` makes it.

    Args:
        config: What was compared.
        images: The images of the comparison.
        planned: All rows, in the order of cost.
        cells: Which images each classifier got right.
        plan: The rows and the seeds for which there was time.

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
        rows: The rows that every seed has, in the order of cost.
        left_out: The rows for which there was no time.
        seeds: The seeds.
        seconds: Seconds of all cells, on one process each.
    """

    def __init__(
        self,
        config: CompareConfig,
        images: Images,
        planned: Sequence[Row],
        cells: Cells,
        plan: Plan,
    ) -> None:
        self.config: CompareConfig = config
        self.rows: list[Row] = [row for row in planned if row.name in plan.rows]
        self.left_out: list[Row] = [row for row in planned if row.name not in plan.rows]
        self.seeds: list[int] = list(range(plan.seeds))
        self.seconds: float = cells.seconds
        self._planned: int = len(planned) - 1
        self._plan: Plan = plan
        self._images: Images = images
        self._titles = titles_of(planned, images.shape, pretrained=config.pretrained)
        self._cells: dict[Row, dict[int, Cell]] = {}
        for row in self.rows:
            self._cells[row] = {seed: cells[row.name, seed] for seed in self.seeds}

    def title(self, row: Row) -> str:
        """The name of a row in the table.

        Args:
            row: One of `rows`.

        Returns:
            The name.
        """
        return self._titles[row]

    def accuracy(self, row: Row) -> float:
        """The mean accuracy of a row over its seeds.

        Args:
            row: One of `rows`.

        Returns:
            Per cent.
        """
        return statistics.fmean(cell.accuracy for cell in self._cells[row].values())

    def _cost(self, row: Row) -> float:
        """Mean seconds of a seed, on one process."""
        return statistics.fmean(cell.seconds for cell in self._cells[row].values())

    def gain(self, ours: Row, other: Row | None = None) -> Gain:
        """The gain of a row over another one, paired over seeds.

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

    def _finding(self) -> Finding | None:
        return finding_of(self.rows, self._cells, self._planned)

    def best(self) -> Row:
        """The row to use: the simplest of those that the best one is not clearly above.

        Returns:
            The row; the first one if nothing is clearly better, or if there is no advice.
        """
        finding = self._finding()
        return self.rows[0] if finding is None else finding.best

    def advice(self) -> str:
        """What to do with these images.

        Returns:
            A few sentences.
        """
        finding = self._finding()
        base = self._base
        if finding is None:
            return self._no_advice()
        if finding.best != self.rows[0]:
            return f"{self._use(finding.best, finding.gain)}{self._resolution()}"
        keep = f"Keep {base} ({self.accuracy(self.rows[0]):.1f}%)"
        if finding.no_effect:
            text = f"{keep}: nothing gains a point of accuracy or more."
        elif finding.gain.mean <= 0:
            text = f"{keep}: nothing gained accuracy over it."
        else:
            limit = "number of seeds (--seeds, --minutes)"
            if finding.gain.half_of_images > finding.gain.half_of_seeds:
                limit = "number of test images (--test-data)"
            text = (
                f"{keep}: no gain is clear. The largest is that of "
                f"{self.title(finding.largest)}, {finding.gain} points. The {limit} limits it."
            )
        return f"{text}{self._resolution()}"

    @property
    def _base(self) -> str:
        """The first row, in a sentence."""
        row = self.rows[0]
        if row.frozen or row.added or self.config.pretrained or not self.config.safe:
            return self.title(row)
        return f"{self._safe} alone"

    @property
    def _safe(self) -> str:
        found = dict.fromkeys(SAFE[word] for word in self.config.safe)
        *titles, last = found or ["no augmentation"]
        return " and ".join(filter(None, [", ".join(titles), last]))

    def _no_advice(self) -> str:
        """Why there is no advice."""
        count = len(self._images.names)
        if len(self.rows) == 1:
            return "No advice: there is one row."
        if count < LEAST_IMAGES:
            return f"No advice: there are {count} test images, and it needs {LEAST_IMAGES}."
        return f"No advice: {len(self.seeds)} seeds were trained, and advice needs {LEAST_SEEDS}."

    def _use(self, best: Row, gain: Gain) -> str:
        """A sentence on the best row, and on what it is compared with."""
        text = f"Use {self.title(best)}: {gain} points of accuracy over {self._base}"
        others = []
        plain = Row()
        if not best.frozen and plain in self.rows[1:] and plain != best:
            others.append(plain)
        rivals = []
        for row in self.rows[1:]:
            if row.added and row.frozen == best.frozen and bool(row.flow) != bool(best.flow):
                rivals.append(row)
        if rivals:
            others.append(max(rivals, key=self.accuracy))
        for other in others:
            lead = self.gain(best, other)
            if abs(lead.mean) > lead.half:
                text += f", {lead} over {self.title(other)}"
            else:
                text += f", not clearly apart from {self.title(other)} ({lead})"
        return f"{text}."

    def _resolution(self) -> str:
        """A sentence on the resolution, if it may be the cause of what the table shows."""
        small = Row(frozen="small")
        plain = Row()
        if small not in self.rows or plain not in self.rows:
            return ""
        lead = self.gain(plain, small)
        relation = "not clearly apart from"
        if abs(lead.mean) > lead.half:
            relation = "better than" if lead.mean > 0 else "worse than"
        height, width = self._images.shape[1:]
        return (
            f" Fine-tuning had {height} x {width} pixels, where it is {relation} frozen features "
            f"({lead} points). With a GPU or more --minutes, --image-size can be the network's own."
        )

    def text(self) -> str:
        """The report: advice, table and method.

        Returns:
            Markdown.
        """
        lines = [
            f"| on top of {self._safe} | accuracy, % | gain over {self._base} | seconds a seed |",
            "|---|---|---|---|",
        ]
        best = self.best()
        for row in self.rows:
            gain = "" if row == self.rows[0] else str(self.gain(row))
            if row == best and gain:
                gain = f"**{gain}**"
            accuracy = f"{self.accuracy(row):.1f}"
            lines.append(f"| {self.title(row)} | {accuracy} | {gain} | {self._cost(row):.0f} |")
        notes = [f"- {note}" for note in self.notes()]
        code = paste(self.best(), self.config, self._images)
        if code:
            code = ["", "```python", *code, "```"]
        return "\n".join([self.advice(), "", *lines, "", *notes, *code, ""])

    def notes(self) -> list[str]:
        """What the figures are, and what they are not.

        Returns:
            Sentences, each without a bullet.
        """
        config = self.config
        labels = "all labelled images"
        if config.per_class is not None:
            labels = f"{config.per_class} labelled images per class"
        height, width = self._images.shape[1:]
        first = f"{config.network} at {height} x {width} pixels, {labels}, {config.steps} steps"
        if config.lr is not None:
            first += f", learning rate {config.lr:g}"
        first += f"; {len(self.seeds)} seeds, {len(self._images.names)} test images"
        notes = [f"{first}; {self.seconds:.0f} s of training in all."]
        if self._planned:
            rows = f"all {self._planned} planned rows" if self._planned > 1 else "the planned row"
            notes.append(
                "± is a 95% interval of one row over seeds and test images. For the advice "
                f"a gain is clear if it is above zero over {rows}: if none gains, it names one in "
                f"about {100 * ERRORS:g}% of comparisons."
            )
        if config.per_class is None:
            notes.append(
                "Every seed has the same labelled images: the intervals hold no variation of them."
            )
        flows = [row.flow for row in self.rows if row.flow]
        if len(flows) > len(set(flows)):
            notes.append(
                "Rows of one checkpoint share its fit and variants: the first has their time."
            )
        if any(row.added for row in self.rows):
            share = f"; p = {config.p:g}" if flows else ""
            notes.append(
                f"Nothing was tuned: settings are defaults, chosen with other images{share}."
            )
        if self.left_out:
            names = ", ".join(self.title(row) for row in self.left_out)
            notes.append(
                f"Left out, for want of time: {names}. All rows need --minutes {self._plan.needed} "
                "and another --out."
            )
        notes += self._collapsed()
        doubted = self._doubted()
        if doubted:
            notes.append(doubted)
        return [*notes, *self._images.notes]

    def _collapsed(self) -> list[str]:
        """Trainings that ended near chance."""
        found = []
        for row in self.rows:
            lost = collapsed(self._cells[row], len(self._images.classes))
            for seed, accuracy in lost.items():
                found.append(f"{self.title(row)} collapsed in seed {seed}: {accuracy:.1f}%.")
        return found

    def _doubted(self) -> str:
        """The images that nothing gets right, whose labels may be wrong."""
        cells = [cell for found in self._cells.values() for cell in found.values()]
        if len(self.seeds) < LEAST_SEEDS or max(map(self.accuracy, self.rows)) < _SURE:
            return ""
        names = self._images.names
        wrong = np.flatnonzero(~np.any([cell.right for cell in cells], axis=0))
        if not len(wrong):
            return ""
        shown = ", ".join(names[index] for index in wrong[:_DOUBTED])
        return (
            f"{len(wrong)} of {len(names)} test images are wrong in every row and seed: "
            f"their labels may be wrong ({shown}{', ...' if len(wrong) > _DOUBTED else ''})."
        )

    def figures(self) -> Mapping[str, object]:
        """The table, as JSON values.

        Returns:
            Advice, seeds, accuracies, gains and notes.
        """
        return {
            "advice": self.advice(),
            "seeds": len(self.seeds),
            "seconds": round(self.seconds, 1),
            "accuracy": {self.title(row): round(self.accuracy(row), 2) for row in self.rows},
            "gain": {self.title(row): str(self.gain(row)) for row in self.rows[1:]},
            "notes": self.notes(),
            "paste": paste(self.best(), self.config, self._images),
        }

    def plot(self) -> bytes:
        """A picture of every gain with its interval and its cost.

        Returns:
            A PNG file.
        """
        bars = []
        for row in self.rows[1:]:
            bars.append(Bar(self.title(row), self.gain(row), self._cost(row), bool(row.flow)))
        first = self.rows[0]
        cost = f"{self.accuracy(first):.1f}%, {self._cost(first):.0f} s"
        return gains_picture(bars, f"{self._base} ({cost})")
