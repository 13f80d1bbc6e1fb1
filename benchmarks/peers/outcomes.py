"""What becomes of a case: it passes, nfaug refuses it by a message, or something else happens."""

from __future__ import annotations

import linecache
import traceback
from collections import Counter
from dataclasses import dataclass, field

from tools import nfa
from torch.utils.data import TensorDataset

import nfaug

SIDE = 16


@dataclass
class Outcomes:
    """Cases by outcome; `notes` say what was supplied, and why a case cannot hold for NFA."""

    passed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, case: str, error: BaseException | None) -> None:
        """A case that ended with this error, or without one."""
        if error is None:
            self.passed.append(case)
        elif is_refusal(error):
            self.refused[case] = message(error)
        else:
            self.other[case] = f"{type(error).__name__}: {message(error)}"

    def table(self, peer: str) -> str:
        """Counts, messages, other cases and notes in Markdown."""
        counts = [len(self.passed), len(self.refused), len(self.other)]
        row = [peer, sum(counts), *counts, len(self.skipped)]
        lines = _rows("peer", "cases", "passed", "refused by a message", "other", "skipped")
        lines.append(_row(*row))
        if self.refused:
            lines += ["", *_rows("message", "cases")]
            lines += [_row(*pair) for pair in Counter(self.refused.values()).most_common()]
        if self.other:
            lines += ["", *_rows("other case", "what happened")]
            lines += [_row(*pair) for pair in self.other.items()]
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)


def is_refusal(error: BaseException) -> bool:
    """Whether nfaug raised the error in a statement of its own."""
    if not isinstance(error, (ValueError, TypeError, NotImplementedError)):
        return False
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    statement = linecache.getline(frame.f_code.co_filename, line).strip()
    return frame.f_globals["__name__"].startswith("nfaug.") and statement.startswith("raise")


def message(error: BaseException) -> str:
    """The first sentence of an error."""
    first, *_ = str(error).strip().splitlines() or [""]
    return first.partition(". ")[0][:160]


def fitted(channels: int = 3) -> nfaug.Checkpoint:
    """A checkpoint in pixels for three classes, fitted to 24 images."""
    images, labels = nfa.batch_of(24, channels=channels, size=(SIDE, SIDE))
    return nfaug.fit("builtin:pixels", TensorDataset(images, labels), progress=False)


def _row(*cells: object) -> str:
    texts = [str(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


def _rows(*titles: str) -> list[str]:
    return [_row(*titles), f"|{'---|' * len(titles)}"]
