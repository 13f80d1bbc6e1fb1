"""The results of a comparison: advice, a table, and a picture of gains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from .advice import Finding, finding_of, gain_between, is_too_short, may_gain_more
from .cells import Cells
from .config import SAFE, CompareConfig
from .figures import LEAST_IMAGES, LEAST_SEEDS, Cell, Gain
from .frozen import input_size
from .images import CompareImages
from .measured import measured_gains
from .methods import Method
from .next_steps import paste
from .pictures import Bar, gains_picture


class Comparison:
    """The results of a comparison, as `compare` returns them.

    Every method adds something to the safe augmentations, or classifies frozen features.

    Args:
        config: What was compared.
        images: The images of the comparison.
        cells: Which images each classifier got right; whole seeds are shown.
        later: The number of earlier looks at these results.

    Example:
        >>> import tempfile
        >>> from nfaug import open_dataset
        >>> from nfaug.compare import CompareConfig, compare
        >>> digits = open_dataset("digits", per_class=20)
        >>> config = CompareConfig(per_class=5, methods="none,nfa", seeds=3, steps=5)
        >>> comparison = compare(digits, tempfile.mkdtemp(), config=config, progress=False)
        >>> first, pixels = comparison.methods
        >>> comparison.seeds
        [0, 1, 2]

    Attributes:
        config: What was compared.
        methods: The methods, in the order of cost.
        seeds: The seeds that every method has.
        seconds: Seconds of all cells, on one process each.
    """

    def __init__(
        self, config: CompareConfig, images: CompareImages, cells: Cells, later: int = 0
    ) -> None:
        self.config: CompareConfig = config
        self.methods: list[Method] = config.table()
        self.seeds: list[int] = list(range(cells.whole_seeds([m.name for m in self.methods])))
        self.seconds: float = cells.seconds
        self._later: int = later
        self._images: CompareImages = images
        self._titles: dict[Method, str] = titles_of(config, images.shape)
        self._cells: dict[Method, dict[int, Cell]] = {}
        for method in self.methods:
            self._cells[method] = {seed: cells[method.name, seed] for seed in self.seeds}
        # The advice chooses among methods at one size.
        self._chosen_from: list[Method] = self.methods
        if frozen_side(config, images.shape) is not None:
            self._chosen_from = [method for method in self.methods if not method.frozen]

    def __getattr__(self, name: str) -> object:
        if name == "rows":
            raise AttributeError("rows are now methods: comparison.methods")
        raise AttributeError(f"a Comparison has no attribute {name!r}")

    @property
    def _first(self) -> Method:
        """What the others gain over."""
        return self._chosen_from[0]

    def title(self, method: Method) -> str:
        """The name of a method in the table.

        Args:
            method: One of `methods`.

        Returns:
            The name.
        """
        return self._titles[method]

    def accuracy(self, method: Method) -> float:
        """The mean accuracy of a method over the seeds.

        Args:
            method: One of `methods`.

        Returns:
            Per cent.
        """
        return statistics.fmean(cell.accuracy for cell in self._cells[method].values())

    def _cost(self, method: Method) -> float:
        """Mean seconds of a seed, on one process."""
        return statistics.fmean(cell.seconds for cell in self._cells[method].values())

    def gain(self, ours: Method, other: Method | None = None) -> Gain:
        """The gain of a method over another one, paired over seeds.

        Args:
            ours: The method.
            other: What it is compared with; None for what the table compares with.

        Returns:
            Points of accuracy, with the half-width `half` of the 95% interval.

        Example:
            >>> comparison.gain(pixels).number
            3
        """
        return gain_between(self._cells, ours, other or self._first)

    def _finding(self) -> Finding | None:
        if len(self.seeds) < self.config.seeds or self.is_too_short():
            return None
        return finding_of(self._chosen_from, self._cells, self._later)

    def best(self) -> Method:
        """The method to use: the simplest of those that the best one is not significantly above.

        Returns:
            The method; what the others gain over if no gain is significant, or without advice.
        """
        finding = self._finding()
        return self._first if finding is None else finding.best

    def advice(self) -> str:
        """What to do with these images.

        Returns:
            A few sentences.
        """
        finding = self._finding()
        if finding is None:
            return self._no_advice()
        if finding.best != self._first:
            return f"{self._use(finding)}{self._sizes()}"
        keep = f"Keep {self._base} ({self.accuracy(self._first):.1f}%)"
        if finding.no_effect:
            text = f"{keep}: nothing gains a point of accuracy or more."
        elif finding.gain.mean <= 0:
            text = f"{keep}: nothing gained accuracy over it."
        else:
            limit = "number of seeds (--seeds)"
            if finding.gain.half_of_images > finding.gain.half_of_seeds:
                limit = "number of test images (--test-data)"
            text = (
                f"{keep}: no gain is significant. The largest is that of "
                f"{self.title(finding.largest)}, {finding.gain} points. The {limit} limits it."
            )
        return f"{text}{self._sizes()}"

    @property
    def _base(self) -> str:
        """What the others gain over, in a sentence."""
        first = self._first
        if first.frozen or first.added or self.config.pretrained or not self.config.safe:
            return self.title(first)
        return f"{self._safe} alone"

    @property
    def _safe(self) -> str:
        found = dict.fromkeys(SAFE[word] for word in self.config.safe)
        *titles, last = found or ["no augmentation"]
        return " and ".join(filter(None, [", ".join(titles), last]))

    def _no_advice(self) -> str:
        """Why there is no advice."""
        done = len(self.seeds)
        planned = self.config.seeds
        count = len(self._images.names)
        if len(self._chosen_from) == 1:
            return "No advice: there is one method."
        if count < LEAST_IMAGES:
            return f"No advice: there are {count} test images, and it needs {LEAST_IMAGES}."
        if self.is_too_short():
            return (
                f"No advice: training was too short. After {self.config.steps} steps "
                f"{self._left():.0%} of the training loss is left without an augmentation, and "
                "with one it takes longer still: pass more --steps, and another --out."
            )
        if done < planned:
            return f"{done} of {planned} seeds: no advice yet."
        return f"No advice: {planned} seeds were trained, and advice needs {LEAST_SEEDS}."

    def _left(self) -> float:
        """The share of the training loss that is left without an augmentation; NaN if unknown."""
        plain = Method()
        return self._left_of(plain) if plain in self.methods else math.nan

    def _left_of(self, method: Method) -> float:
        return statistics.fmean(cell.left for cell in self._cells[method].values())

    def is_too_short(self) -> bool:
        """Whether trainings ended too early to judge an augmentation.

        Returns:
            Whether more than 5% of the training loss is left without an augmentation.
        """
        return is_too_short(self._left())

    def _unfinished(self) -> list[str]:
        """A note on the methods that still learned when training ended."""
        found = []
        for method in self.methods:
            left = self._left_of(method)
            if may_gain_more(method, left):
                found.append(f"{self.title(method)} ({left:.0%})")
        if not found:
            return []
        return [
            "Still learning when training ended, by the share of the training loss that is left: "
            f"{', '.join(found)}. With more --steps these may gain more."
        ]

    def _use(self, finding: Finding) -> str:
        """A sentence on the best method, and on those that cannot be told apart from it."""
        best = finding.best
        text = f"Use {self.title(best)}: {finding.gain} points of accuracy over {self._base}."
        equals = [f"{self.title(method)} ({self.gain(method)})" for method in finding.equals]
        if equals:
            *some, last = equals
            named = f"{', '.join(some)} and {last}" if some else last
            text += f" Not told apart from it: {named}."
        return text

    def _sizes(self) -> str:
        """A sentence on frozen features that had another size than training."""
        side = frozen_side(self.config, self._images.shape)
        if side is None:
            return ""
        height, width = self._images.shape[1:]
        return (
            f" Frozen features had {side} x {side} pixels and fine-tuning {height} x {width}, so "
            "the advice does not choose between the two."
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
        for method in self.methods:
            gain = "" if method == self._first else str(self.gain(method))
            if method == best and gain:
                gain = f"**{gain}**"
            accuracy = f"{self.accuracy(method):.1f}"
            lines.append(
                f"| {self.title(method)} | {accuracy} | {gain} | {self._cost(method):.0f} |"
            )
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
        others = len(self._chosen_from) - 1
        if others:
            looks = ""
            if self._later:
                looks = f" and for {self._later + 1} looks at these results"
            notes.append(
                "± is a 95% interval of one method over seeds and test images. The advice names a "
                "method only if its gain is significant after correction for all "
                f"{others} methods{looks}."
            )
        if config.per_class is None:
            notes.append(
                "Every seed has the same labelled images: the intervals hold no variation of them."
            )
        flows = [method.flow for method in self.methods if method.flow]
        if len(flows) > len(set(flows)):
            notes.append(
                "Methods of one checkpoint share its fit and variants: the first has their time."
            )
        if any(method.added for method in self.methods):
            share = f"; p = {config.p:g}" if flows else ""
            notes.append(
                f"Nothing was tuned: settings are defaults, chosen with other images{share}."
            )
        notes += self._unfinished()
        if Method() in self.methods and not config.pretrained:
            notes.append(measured_gains(self.accuracy(Method())))
        return [*notes, *self._images.notes]

    def figures(self) -> Mapping[str, object]:
        """The table, as JSON values.

        Returns:
            Advice, seeds, accuracies, gains and notes.
        """
        others = [method for method in self.methods if method != self._first]
        return {
            "advice": self.advice(),
            "seeds": len(self.seeds),
            "seconds": round(self.seconds, 1),
            "accuracy": {self.title(one): round(self.accuracy(one), 2) for one in self.methods},
            "gain": {self.title(one): str(self.gain(one)) for one in others},
            "notes": self.notes(),
            "paste": paste(self.best(), self.config, self._images),
        }

    def plot(self) -> bytes:
        """A picture of every gain with its interval and its cost.

        Returns:
            A PNG file.
        """
        bars = []
        for method in self.methods:
            if method != self._first:
                seconds = self._cost(method)
                bars.append(Bar(self.title(method), self.gain(method), seconds, bool(method.flow)))
        first = f"{self.accuracy(self._first):.1f}%, {self._cost(self._first):.0f} s"
        return gains_picture(bars, f"{self._base} ({first})")


def frozen_side(config: CompareConfig, shape: Sequence[int]) -> int | None:
    """The side of what a frozen network sees, if other methods train at another size."""
    kinds = {method.frozen for method in config.table()}
    if kinds != {True, False}:
        return None
    side, _ = input_size(config)
    return None if tuple(shape[1:]) == (side, side) else side


def titles_of(config: CompareConfig, shape: Sequence[int]) -> dict[Method, str]:
    """The names of methods in the table; where sizes differ, they say which one they have."""
    side = frozen_side(config, shape)
    own = small = ""
    if side is not None:
        own = f" at {side} x {side} pixels"
        small = f" at {shape[1]} x {shape[2]} pixels"
    found = {}
    for method in config.table():
        if method.frozen:
            found[method] = f"frozen features{own}"
        elif config.pretrained:
            found[method] = ", ".join(filter(None, [f"fine-tuned{small}", method.added]))
        else:
            found[method] = method.added or "nothing more"
    return found
