"""Write the tables of the documentation from the rows in lab/results.

    python lab/tables.py           # write them
    python lab/tables.py --check   # exit with 1 if a page would change

`<!-- table: NAME -->` in a page stands before a table, which ends with its last row. lab/tables.md
has a table of that name in which braces stand for figures:

- `{FILE: ROW over OTHER}` is the gain of a row over another one in points of accuracy, within the
  seeds of both, with a 95% interval; `{FILE: ROW}` is that over "nothing more". In bold: the
  interval excludes 0 after Holm's correction over all gains of the table (Holm, 1979).
- `{FILE: ROW, accuracy}` is its mean accuracy in per cent.
- `{FILE: NAME=VALUE NAME=VALUE, COLUMN}` is the mean of a column over the lines with these values;
  `COLUMN ±` adds the standard deviation, and `COLUMN %` is in per cent. Seconds are whole.
- `{FILE: ROW, above}` counts the files, such as final/*-scratch, in which the interval of a row's
  gain is above 0; `below`, below 0. Each gain is taken by itself.
- `{FILE: rows}` counts the lines of files, and `{FILE: hours}` adds up their seconds, on one core.

FILE is a CSV file of lab/results or benchmarks/results, without its end.
"""

from __future__ import annotations

import argparse
import base64
import csv
import functools
import re
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from nfaug.compare.figures import LEAST_SEEDS, Cell, Gain, gain_of

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "lab"
RESULTS = (LAB / "results", ROOT / "benchmarks" / "results")
TEMPLATES = LAB / "tables.md"
NONE = "nothing more"
PAGES = [
    ROOT / "README.md",
    LAB / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts),
    *sorted((LAB / "results").rglob("README.md")),
]
SIGNIFICANT = 0.05  # of all gains of a table, after Holm's correction
NAMED = re.compile(r"\S=\S")  # not the row "NFA in pixels at p = 0.25"
BRACED = re.compile(r"\{([\w/*-]+): ([^}]+)\}")
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n\n)((?:\|.*\n)*)")
_SECONDS = ("seconds", "bank_seconds", "train_seconds")  # columns

Row = Mapping[str, str]


def files_of(pattern: str) -> list[Path]:
    """The CSV files of a pattern, in order.

    Raises:
        ValueError: No file has such a name.
    """
    files = [file for folder in RESULTS for file in sorted(folder.glob(f"{pattern}.csv"))]
    if not files:
        raise ValueError(f"there is no {pattern}.csv in lab/results or benchmarks/results")
    return files


@functools.cache
def lines_of(pattern: str) -> tuple[Row, ...]:
    """The lines of the CSV files of a pattern, in order. It raises ValueError as `files_of`."""
    found: list[Row] = []
    for file in files_of(pattern):
        with file.open(encoding="utf-8", newline="") as opened:
            found += csv.DictReader(opened)
    return tuple(found)


def cells_of(file: str, row: str) -> dict[int, Cell]:
    """The cells of a row by seed. A name such as "NFA 0.5, lr 0.2" is that of the row "NFA 0.5".

    Raises:
        ValueError: There are none, or several of a seed.
    """
    lines = [line for line in lines_of(file) if line["augmentation"].partition(", ")[0] == row]
    cells = {}
    for line in lines:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(line["right"]), np.uint8))
        # The bits are padded to whole bytes.
        count = round(100 * bits.sum() / float(line["accuracy"]))
        cells[int(line["seed"])] = Cell(bits[:count] > 0, 0.0)
    if not lines or len(cells) < len(lines):
        raise ValueError(f"{file}: {row} has {len(lines)} lines, of {len(cells)} seeds")
    return cells


@functools.cache
def gain(file: str, row: str, other: str = NONE) -> Gain:
    """The gain of a row over another one, within the seeds that both have."""
    ours, others = cells_of(file, row), cells_of(file, other)
    seeds = sorted(ours.keys() & others.keys())
    return gain_of([ours[seed] for seed in seeds], [others[seed] for seed in seeds])


def intervals(pattern: str, row: str) -> dict[str, int]:
    """In how many files the interval of a row's gain is above 0, and below."""
    gains = [gain(f"{file.parent.name}/{file.stem}", row) for file in files_of(pattern)]
    return {
        "above": sum(one.mean > one.half for one in gains),
        "below": sum(one.mean < -one.half for one in gains),
    }


def p_value(gain: Gain) -> float:
    """The share of experiments without an effect whose gain is as far from 0 (two-sided).

    It is twice the tail beyond which the interval excludes 0.
    """
    distance = abs(gain.mean)
    if gain.number < LEAST_SEEDS or distance == 0:
        return 1.0

    def beyond(tail: float) -> float:
        return gain.half_at(tail) - distance

    least, most = 1e-12, 0.5
    if beyond(least) <= 0:
        return 2 * least
    return 2 * float(brentq(beyond, least, most))


def significant(gains: list[Gain], level: float = SIGNIFICANT) -> list[bool]:
    """Which gains are not 0, after Holm's correction: p_(k) <= level / (n - k + 1), from the least.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    p = [p_value(gain) for gain in gains]
    found = [False] * len(p)
    for place, number in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[number] > level / (len(p) - place):
            break
        found[number] = True
    return found


def is_gain(name: str) -> bool:
    """Whether braces hold a gain, and no other figure."""
    _, _, column = name.rpartition(", ")
    return not NAMED.search(name) and column not in ("rows", "hours", "accuracy", "above", "below")


def gain_in(file: str, name: str) -> Gain:
    """The gain that braces name."""
    row, _, other = name.partition(" over ")
    return gain(file, row, other or NONE)


def figure(file: str, name: str) -> str:
    """A figure that is no gain."""
    lines = lines_of(file)
    if name == "rows":
        return f"{len(lines):,}"
    if name == "hours":
        seconds = 0.0
        for line in lines:
            seconds += sum(float(line[column]) for column in _SECONDS if line.get(column))
            seconds += 60 * float(line.get("minutes") or 0)
        return f"{seconds / 3600:.1f}"
    row, _, column = name.rpartition(", ")
    if column == "accuracy":
        return f"{100 * np.mean([cell.right.mean() for cell in cells_of(file, row).values()]):.1f}%"
    if column in ("above", "below"):
        return str(intervals(file, row)[column])
    wanted = dict(word.split("=", 1) for word in row.split(" "))
    column, _, form = column.partition(" ")
    values = [float(line[column]) for line in lines if wanted.items() <= line.items()]
    if not values:
        raise ValueError(f"{file} has no line with {row}")
    mean = statistics.fmean(values)
    digits = 0 if column in _SECONDS else 1
    if form == "±":
        return f"{mean:,.{digits}f} ± {statistics.stdev(values):,.{digits}f}"
    return f"{100 * mean:.1f}%" if form == "%" else f"{mean:,.{digits}f}"


@functools.cache
def templates() -> dict[str, str]:
    """The tables of lab/tables.md, by name."""
    text = TEMPLATES.read_text(encoding="utf-8")
    return dict(re.findall(r"^## ([\w-]+)\n\n((?:\|.*\n)+)", text, re.MULTILINE))


def filled(template: str) -> str:
    """A table with its figures."""
    named = [found for found in BRACED.findall(template) if is_gain(found[1])]
    bold = dict(zip(named, significant([gain_in(*found) for found in named]), strict=True))

    def written_out(found: re.Match[str]) -> str:
        file, name = found.groups()
        if not is_gain(name):
            return figure(file, name)
        of_row = gain_in(file, name)
        text = f"{round(of_row.mean, 1) + 0.0:+.1f} ± {of_row.half:.1f}"
        return f"**{text}**" if bold[file, name] else text

    return BRACED.sub(written_out, template)


def written(text: str) -> str:
    """A page with its tables filled in."""
    return TABLE.sub(lambda found: found[1] + filled(templates()[found[2]]), text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    changed = False
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        new = written(text)
        if new == text:
            continue
        changed = True
        print(f"other figures: {path.relative_to(ROOT)}")
        if not options.check:
            path.write_text(new, encoding="utf-8")
    return int(changed and options.check)


if __name__ == "__main__":
    sys.exit(main())
