"""Write the tables of the documentation from the rows in lab/results.

    python lab/tables.py           # write them
    python lab/tables.py --check   # exit with 1 if a page would change

`<!-- table: NAME -->` in a page stands before a table, which ends with its last row. lab/tables.md
has a table of that name in which braces stand for figures:

- `{FILE: ROW over OTHER}` is the gain of a row over another one in points of accuracy, within the
  seeds of both, with a 95% interval; `{FILE: ROW}` is that over "nothing more". In bold: the
  interval excludes 0 after Holm's correction over all gains of the table (Holm, 1979). Where test
  images have clusters (`clusters.py`), the interval is one over them.
- `{FILE: ROW, plain}` is the same gain, which is left out of the correction and never in bold;
  `by image` has an interval over images as if they had no clusters; `known` is the gain on images
  whose cluster the training part has, and `new` that on the others.
- `{FILE: images}` and `{FILE: clusters}` count the test images and their clusters, and
  `{FILE: known}` is the share of images whose cluster the training part has.
- `{FILE: ROW, accuracy}` is its mean accuracy in per cent.
- `{FILE: NAME=VALUE NAME=VALUE, COLUMN}` is the mean of a column over the lines with these values;
  `COLUMN ±` adds the standard deviation, and `COLUMN %` is in per cent. Seconds are whole.
- `{FILES: ROW, above}` counts the files, such as final/*-scratch, in which the interval of a row's
  gain is above 0; `below`, below 0. Each gain is taken by itself. `mean` is the mean of the gains
  with a 95% interval over files (Student's t), and `worst` the least of them, with its file.
- FILES may also be a table, whose gains of this name are taken (`*` stands for any words):
  `bold above` and `bold below` count those in bold there.
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
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from clusters import Clusters, clusters_of, names_of
from scipy.optimize import brentq

from nfaug.compare.figures import LEAST_SEEDS, Cell, Gain, gain_of, student

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
_COUNTS = ("rows", "hours", "images", "clusters", "known")  # of a file
# What follows the comma after a gain, and is none itself: it has no part in the correction.
_FORMS = ("plain", "by image", "known", "new")  # of a gain
_FORMS += ("above", "below", "mean", "worst", "bold above", "bold below")  # over files
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
        ValueError: There are none, or several of a seed, or other images than a manifest lists.
    """
    lines = [line for line in lines_of(file) if line["augmentation"].partition(", ")[0] == row]
    cells = {}
    clusters = clusters_of(file)
    for line in lines:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(line["right"]), np.uint8))
        # The bits are padded to whole bytes.
        count = round(100 * bits.sum() / float(line["accuracy"]))
        cells[int(line["seed"])] = Cell(bits[:count] > 0, 0.0)
        if clusters and count != len(clusters.names):
            raise ValueError(f"{file}: {row} has {count} answers to {len(clusters.names)} images")
    if not lines or len(cells) < len(lines):
        raise ValueError(f"{file}: {row} has {len(lines)} lines, of {len(cells)} seeds")
    return cells


def paired(file: str, row: str, other: str) -> tuple[list[Cell], list[Cell]]:
    """The cells of two rows, within the seeds that both have."""
    ours, others = cells_of(file, row), cells_of(file, other)
    seeds = sorted(ours.keys() & others.keys())
    return [ours[seed] for seed in seeds], [others[seed] for seed in seeds]


@functools.cache
def gain(file: str, row: str, other: str = NONE) -> Gain:
    """The gain of a row over another one; the interval is one over clusters, if images have any."""
    return gain_of(*paired(file, row, other), names_of(file))


def gain_by_image(file: str, row: str, other: str = NONE) -> Gain:
    """The same gain, with an interval over images as if none had a cluster."""
    return gain_of(*paired(file, row, other))


def gain_on(file: str, row: str, other: str = NONE, *, known: bool) -> Gain:
    """The gain on images of clusters that the training part has, if `known`, or on the others."""
    clusters = needed_clusters(file)
    chosen = np.array(clusters.known) == known
    ours, others = paired(file, row, other)
    return gain_of(
        [Cell(cell.right[chosen], 0.0) for cell in ours],
        [Cell(cell.right[chosen], 0.0) for cell in others],
        np.array(clusters.names)[chosen].tolist(),
    )


def needed_clusters(file: str) -> Clusters:
    """The clusters of a file's test images.

    Raises:
        ValueError: They have none.
    """
    clusters = clusters_of(file)
    if clusters is None:
        raise ValueError(f"the test images of {file} have no clusters")
    return clusters


def named_gains(where: str, name: str) -> list[tuple[str, str]]:
    """The gains of a name: of each file of a pattern, or in a table those whose names fit it."""
    if where in templates():
        return [one for one in bold_gains(templates()[where]) if fnmatchcase(one[1], name)]
    return [(f"{file.parent.name}/{file.stem}", name) for file in files_of(where)]


def intervals(where: str, name: str) -> dict[str, int]:
    """How many of these gains have an interval above 0, and below."""
    gains = [gain(file, *rows_in(row)) for file, row in named_gains(where, name)]
    return {
        "above": sum(one.mean > one.half for one in gains),
        "below": sum(one.mean < -one.half for one in gains),
    }


def bold_intervals(table: str, name: str) -> dict[str, int]:
    """How many of these gains of a table are above 0 after correction, and below."""
    bold = bold_gains(templates()[table])
    means = []
    for file, row in named_gains(table, name):
        if bold[file, row]:
            means.append(gain(file, *rows_in(row)).mean)
    above = sum(mean > 0 for mean in means)
    return {"bold above": above, "bold below": len(means) - above}


def mean_of(where: str, name: str) -> tuple[float, float]:
    """The mean of these gains, and the half-width of its 95% interval over files."""
    means = [gain(file, *rows_in(row)).mean for file, row in named_gains(where, name)]
    error = statistics.stdev(means) / len(means) ** 0.5
    return statistics.fmean(means), student(0.025, len(means) - 1) * error


def worst_of(where: str, name: str) -> str:
    """The least of these gains, and its file."""
    means = {}
    for file, row in named_gains(where, name):
        means[Path(file).name] = gain(file, *rows_in(row)).mean
    worst = min(means, key=lambda file: means[file])
    return f"{means[worst]:+.1f} ({worst.partition('-')[0]})"


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
    _, _, form = name.rpartition(", ")
    return not NAMED.search(name) and form not in (*_COUNTS, *_FORMS, "accuracy")


def rows_in(name: str) -> tuple[str, str]:
    """The two rows of a gain that braces name."""
    row, _, other = name.partition(" over ")
    return row, other or NONE


def in_tenths(mean: float, half: float) -> str:
    """A gain with its interval, such as +2.3 ± 1.8."""
    return f"{round(mean, 1) + 0.0:+.1f} ± {half:.1f}"


def figure(file: str, name: str) -> str:
    """A figure that is no gain."""
    row, _, form = name.rpartition(", ")
    if name in _COUNTS:
        return counted(file, name)
    if form in _FORMS:
        return figure_of_gain(file, row, form)
    if form == "accuracy":
        return f"{100 * np.mean([cell.right.mean() for cell in cells_of(file, row).values()]):.1f}%"
    wanted = dict(word.split("=", 1) for word in row.split(" "))
    column, _, form = form.partition(" ")
    values = [float(line[column]) for line in lines_of(file) if wanted.items() <= line.items()]
    if not values:
        raise ValueError(f"{file} has no line with {row}")
    mean = statistics.fmean(values)
    digits = 0 if column in _SECONDS else 1
    if form == "±":
        return f"{mean:,.{digits}f} ± {statistics.stdev(values):,.{digits}f}"
    return f"{100 * mean:.1f}%" if form == "%" else f"{mean:,.{digits}f}"


def counted(file: str, name: str) -> str:
    """A count of a file's lines, hours or test images."""
    if name == "rows":
        return f"{len(lines_of(file)):,}"
    if name == "hours":
        seconds = 0.0
        for line in lines_of(file):
            seconds += sum(float(line[column]) for column in _SECONDS if line.get(column))
            seconds += 60 * float(line.get("minutes") or 0)
        return f"{seconds / 3600:.1f}"
    if name == "images":
        row, _, _ = lines_of(file)[0]["augmentation"].partition(", ")
        return f"{len(paired(file, row, row)[0][0].right):,}"
    clusters = needed_clusters(file)
    if name == "known":
        return f"{100 * np.mean(clusters.known):.0f}%"
    return str(len(set(clusters.names)))


def figure_of_gain(file: str, name: str, form: str) -> str:
    """A figure of a gain, which its table does not correct."""
    if form in ("above", "below"):
        return str(intervals(file, name)[form])
    if form in ("bold above", "bold below"):
        return str(bold_intervals(file, name)[form])
    if form == "mean":
        return in_tenths(*mean_of(file, name))
    if form == "worst":
        return worst_of(file, name)
    rows = rows_in(name)
    if form == "plain":
        one = gain(file, *rows)
    elif form == "by image":
        one = gain_by_image(file, *rows)
    else:
        one = gain_on(file, *rows, known=form == "known")
    return in_tenths(one.mean, one.half)


@functools.cache
def bold_gains(template: str) -> dict[tuple[str, str], bool]:
    """Whether each gain of a table, a file and what braces name, is in bold."""
    named = [found for found in BRACED.findall(template) if is_gain(found[1])]
    gains_of_all = [gain(file, *rows_in(name)) for file, name in named]
    return dict(zip(named, significant(gains_of_all), strict=True))


@functools.cache
def templates() -> dict[str, str]:
    """The tables of lab/tables.md, by name."""
    text = TEMPLATES.read_text(encoding="utf-8")
    return dict(re.findall(r"^## ([\w-]+)\n\n((?:\|.*\n)+)", text, re.MULTILINE))


def filled(template: str) -> str:
    """A table with its figures."""
    bold = bold_gains(template)

    def written_out(found: re.Match[str]) -> str:
        file, name = found.groups()
        if not is_gain(name):
            return figure(file, name)
        of_row = gain(file, *rows_in(name))
        text = in_tenths(of_row.mean, of_row.half)
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
