"""Write the figures of the documentation from the rows in benchmarks/results.

python scripts/figures.py           # write them
python scripts/figures.py --check   # exit with 1 if a page would change

A figure in a sentence or a table follows a comment that names its rows:

    NFA gained <!--speech-10: NFA in pixels 0.25-->+3 ± 2 over shifts alone

- `FILE: ROW over OTHER` is the gain of a row over another one, within the seeds of both, with a
  95% interval; `FILE: ROW` is that over "nothing more". `, tenths` shows both to one decimal.
- `FILE: ROW, accuracy` is its mean accuracy in per cent.
- `paper_tables: SETTING, COLUMN` is a mean over seeds, of accuracies with its standard deviation.
- `placement: PLACE, SEED` is a gain of one seed, and `placement_gated: SCALE` a share of crops.
- `training_overhead: LOOP, COLUMN` is a cell of the first table of that page, where COLUMN is
  ratio, low or high.
- `study: FILES, rows` counts the rows of CSV files of `benchmarks/results`, such as where/sign-*,
  and `study: FILES, hours` adds up their seconds, on one core.

FILE is a CSV file of `benchmarks/results/where`, or a key of `RIVALS`, or the name of a folder of
`benchmarks/results` and that of its CSV file: compare-NAME (whose row without augmentation is
`none`), ladder-NAME (whose first row is `frozen`), or untuned-NAME.

Two comments stand before tables, which end with their last row:

- `<!-- table: NAME -->`: the table of that name in `benchmarks/results/tables.md`, where braces
  stand for figures: `{speech-10: NFA in pixels 0.25}`.
- `<!-- rows: FILE -->`: the rows of a CSV file. The first column and the header say what each cell
  holds: the accuracy, or the gain over another row. Several files stand side by side.
"""

from __future__ import annotations

import argparse
import base64
import csv
import functools
import re
import statistics
import sys
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np

from nfaug.compare.figures import Cell, Gain, gain_of

__all__ = [
    "BRACED", "FIGURE", "MARKED", "NONE", "PAGES", "RESULTS", "ROOT", "cells_of", "figure", "gain",
    "main", "template", "written",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts),
    *sorted((RESULTS / "where").glob("*.md")),
    RESULTS / "README.md",
]
FIGURE = r"[+-]?\d+(?:\.\d+)?(?: ± \d+(?:\.\d+)?)?%?"
MARKED = re.compile(rf"(<!--([\w-]+): ([^>]+?)-->)({FIGURE})?")
BRACED = re.compile(r"\{([\w-]+): ([^}]+)\}")
TABLE = re.compile(r"(<!-- (table|rows): ([\w, -]+) -->\n\n)((?:\|.*\n)*)")
NONE = "nothing more"
_SECONDS = ("seconds", "bank_seconds", "train_seconds")  # columns

Row = Mapping[str, str]


def _labels(data: str, count: int, base: str, steps: int = 2000, network: str = "") -> Row:
    """The rows of rivals.csv with this many labels a class and the safe augmentations alone."""
    return {
        "data": data, "per_class": str(count), "steps": str(steps), "split": "test", "base": base,
        "network": network or "small-cnn:0.2:0.0005:64", "arm": "none", "flow": "-", "settings": "",
    }  # fmt: skip


def _policy(row: Row, policy: str) -> Row:
    """The same rows with RandAugment."""
    return {**row, "base": f"{row['base']}+randaugment:{policy}"}


def _nfa(row: Row, flow: str, p: float, mixing: str = "strength=1.5") -> Row:
    """The same rows with NFA first: flow "b" is the bundled one, "p" mixes pixels."""
    settings = f"p={p} {mixing} gate=1.25 variants=20"
    return {**row, "arm": "nfa", "flow": flow, "settings": settings}


_COLOUR, _GREY = "flip+crop:4", "flip+crop:3"
_C10, _C50 = _labels("cifar10", 10, _COLOUR), _labels("cifar10", 50, _COLOUR)
_C100, _C500 = _labels("cifar10", 100, _COLOUR), _labels("cifar10", 500, _COLOUR)
_F10, _F50 = _labels("fashion-mnist", 10, _GREY), _labels("fashion-mnist", 50, _GREY)
_F100, _F500 = _labels("fashion-mnist", 100, _GREY), _labels("fashion-mnist", 500, _GREY)
_RESNET = _labels("cifar10", 50, _COLOUR, 10_000, "resnet18:0.01:0.02:16")
_SWIN = _labels("cifar10", 50, _COLOUR, 1250, "small-swin:0.001:0.05:64")
_PHOTOS = _labels("clothing128", 0, "flip+crop:12", 4000, "photo-cnn:0.1:0.005:64")
_STRONG, _USUAL, _MILD = "3:14:128", "2:9", "1:9"

RIVALS: dict[str, dict[str, Row]] = {
    "cifar10-10": {
        NONE: _C10,
        "pixels": _nfa(_C10, "p", 0.8),
        "RandAugment": _policy(_C10, _STRONG),
        "pixels + RandAugment": _nfa(_policy(_C10, _STRONG), "p", 0.8),
    },
    "cifar10-50": {
        NONE: _C50,
        "flow": _nfa(_C50, "b", 0.8),
        "pixels": _nfa(_C50, "p", 0.8, "alpha=0.1 strength=1"),
        "same-class mixup": {**_C50, "arm": "mixup", "settings": "p=0.8 alpha=1 strength=1.5"},
        "RandAugment": _policy(_C50, _STRONG),
        "flow + RandAugment": _nfa(_policy(_C50, _STRONG), "b", 0.5),
    },
    "cifar10-100": {
        NONE: _C100,
        "pixels": _nfa(_C100, "p", 0.5),
        "RandAugment": _policy(_C100, _USUAL),
    },
    "cifar10-500": {
        NONE: _C500,
        "pixels": _nfa(_C500, "p", 0.2),
        "RandAugment": _policy(_C500, _MILD),
    },
    "resnet18": {
        NONE: _RESNET,
        "flow": _nfa(_RESNET, "b", 0.8),
        "RandAugment": _policy(_RESNET, _MILD),
    },
    "swin": {
        NONE: _SWIN,
        "flow": _nfa(_SWIN, "b", 0.8),
        "RandAugment": _policy(_SWIN, "2:14:128"),
    },
    "photographs": {NONE: _PHOTOS, "pixels": _nfa(_PHOTOS, "p32", 0.2)},
    "fashion-10": {
        NONE: _F10,
        "flow": _nfa(_F10, "b", 0.5),
        "RandAugment": _policy(_F10, _STRONG),
    },
    "fashion-50": {
        NONE: _F50,
        "flow": _nfa(_F50, "b", 0.5),
        "pixels": _nfa(_F50, "p", 0.5),
        "RandAugment": _policy(_F50, _USUAL),
    },
    "fashion-100": {
        NONE: _F100,
        "flow": _nfa(_F100, "b", 0.2),
        "RandAugment": _policy(_F100, _MILD),
    },
    "fashion-500": {NONE: _F500, "flow": _nfa(_F500, "b", 0.2)},
}
# Rows of tables that are named otherwise in the CSV files of benchmarks/imbalance.py and others.
NAMES = {
    "plain: shifts; quarter turns": "plain",
    "oversampling": "over",
    "class weights in the loss": "weights",
    "balanced softmax (arXiv:2007.10740)": "softmax",
    "NFA with p = 0.5, oversampling": "nfa+over",
    "NFA with p = 1 - n/n_max, oversampling": "nfa+over+fill",
    "NFA with p = 1 - n/n_max, balanced softmax": "nfa+softmax+fill",
    "NFA": "nfa",
    "NFA, hardest": "nfa+hardest",
    "NFA, growing strength": "nfa+grow",
}


@functools.cache
def _csv(name: str) -> tuple[Row, ...]:
    with (RESULTS / name).open(encoding="utf-8", newline="") as opened:
        return tuple(csv.DictReader(opened))


def _rows(file: str, row: str) -> dict[int, Row]:
    """The lines of a row, by seed.

    Raises:
        ValueError: There are none, or several of a seed.
    """
    if file in RIVALS:
        wanted = RIVALS[file][row].items()
        lines = [line for line in _csv("rivals.csv") if wanted <= line.items()]
    else:
        judged = f"where/{file}-judged.csv"
        name = judged if (RESULTS / judged).exists() else f"where/{file}.csv"
        for folder in ("compare", "ladder", "untuned"):
            if file.startswith(f"{folder}-"):
                name = f"{folder}/{file.removeprefix(f'{folder}-')}.csv"
        # The name of a row of benchmarks/where.py ends in ", lr 0.2, 600 steps".
        lines = [line for line in _csv(name) if line["augmentation"].partition(", ")[0] == row]
    by_seed = {int(line["seed"]): line for line in lines}
    if not lines or len(by_seed) < len(lines):
        raise ValueError(f"{file}: {row} has {len(lines)} lines, of {len(by_seed)} seeds")
    return by_seed


def _cell(line: Row) -> Cell:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(line["right"]), np.uint8))
    # Only rivals.csv has the number of images; the others pad their bits to whole bytes.
    count = int(line.get("tested") or round(100 * bits.sum() / float(line["accuracy"])))
    return Cell(bits[:count] > 0, 0.0)


@functools.cache
def gain(file: str, row: str, other: str) -> Gain:
    """The gain of a row over another one, within the seeds that both have."""
    ours = _rows(file, row)
    others = _rows(file, other)
    seeds = sorted(ours.keys() & others.keys())
    return gain_of([_cell(ours[s]) for s in seeds], [_cell(others[s]) for s in seeds])


@functools.cache
def accuracy(file: str, row: str) -> str:
    """The mean accuracy of a row in per cent."""
    return f"{np.mean([float(line['accuracy']) for line in _rows(file, row).values()]):.1f}"


def _paper_tables(row: str) -> str:
    """A mean over the seeds of Fashion-MNIST, of accuracies with its standard deviation."""
    setting, column = row.split(", ")
    lines = [line for line in _csv("paper_tables.csv") if line["data"] == "fashion-mnist"]
    values = [float(line[column]) for line in lines if line["setting"] == setting]
    mean = f"{statistics.fmean(values):.1f}"
    return mean if column == "bits_per_dim" else f"{mean} ± {statistics.stdev(values):.1f}"


def _placement(row: str) -> str:
    """Points of accuracy of a place of NFA over the crop alone, in one seed."""
    place, seed = row.rsplit(", ", 1)
    found = {
        line["arm"]: Decimal(line["accuracy"])
        for line in _csv("placement.csv")
        if line["seed"] == seed
    }
    return f"{_rounded(100 * (found[place] - found['crop']), '0.1'):+}"


def _placement_gated(scale: str) -> str:
    """The share of crops that the gate leaves unchanged."""
    (line,) = (line for line in _csv("placement_gated.csv") if line["scale"] == scale)
    return f"{100 * Decimal(line['gated_plain_fit']):.0f}%"


def _training_overhead(row: str) -> str:
    """A cell of the table of an epoch."""
    loop, column = row.split(", ")
    text = (RESULTS / "training_overhead.md").read_text(encoding="utf-8")
    line = re.search(rf"^\| {loop} \|.*\| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", text, re.M)
    if line is None:
        raise ValueError(f"training_overhead.md has no loop {loop}")
    cells = dict(zip(("ratio", "low", "high"), line.groups(), strict=True))
    return str(_rounded(Decimal(cells[column]), "0.01"))


def _rounded(value: Decimal, to: str) -> Decimal:
    return value.quantize(Decimal(to), ROUND_HALF_UP)


def _study(row: str) -> str:
    """The number of rows of some files, or their hours.

    Raises:
        ValueError: There is no such file, or it has no seconds.
    """
    pattern, column = row.split(", ")
    lines: list[Row] = []
    for path in sorted(RESULTS.glob(f"{pattern}.csv")):
        lines += _csv(str(path.relative_to(RESULTS)))
    if not lines:
        raise ValueError(f"no file of benchmarks/results is {pattern}.csv")
    if column == "rows":
        return str(len(lines))
    seconds = 0.0
    for line in lines:
        times = [float(line[name]) for name in _SECONDS if line.get(name)]
        seconds += sum(times) + 60 * float(line.get("minutes") or 0)
    if not seconds:
        raise ValueError(f"{pattern}.csv has no seconds")
    return f"{seconds / 3600:.1f}"


OTHERS = {
    "study": _study,
    "paper_tables": _paper_tables,
    "placement": _placement,
    "placement_gated": _placement_gated,
    "training_overhead": _training_overhead,
}


def figure(file: str, row: str) -> str:
    """The figure that a comment `<!--FILE: ROW-->` names."""
    if file in OTHERS:
        return OTHERS[file](row)
    name, _, form = row.partition(", ")
    if form == "accuracy":
        return f"{accuracy(file, name)}%"
    ours, _, other = name.partition(" over ")
    found = gain(file, ours, other or NONE)
    return f"{found.mean:+.1f} ± {found.half:.1f}" if form == "tenths" else str(found)


@functools.cache
def _templates() -> dict[str, str]:
    """The tables of tables.md, by name."""
    text = (RESULTS / "tables.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (\w+)\n\n((?:\|.*\n)+)", text, re.M))


def template(name: str) -> str:
    """A table of tables.md, with the names of rows in braces."""
    return _templates()[name]


def _filled(name: str) -> str:
    """A table of tables.md with its figures."""
    return BRACED.sub(lambda found: figure(found[1], found[2]), template(name))


def _all_rows(files: Iterable[str], table: str) -> str:
    """A table with its cells written anew; its header and its first column are kept."""
    header, rule, *lines = table.splitlines()
    columns = cells_of(header)[1:]
    new = [header, rule]
    for line in lines:
        label = cells_of(line)[0]
        row = NAMES.get(label, label)
        cells = [label]
        remaining = iter(files)
        file = ""
        for column in columns:
            if column.startswith("over "):
                other = column.removeprefix("over ")
                cells.append(str(gain(file, row, NAMES.get(other, other))))
            else:
                file = next(remaining)
                cells.append(accuracy(file, row))
        new.append(f"| {' | '.join(cells)} |")
    return "\n".join(new) + "\n"


def cells_of(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def _table(found: re.Match[str]) -> str:
    comment, kind, name, table = found.groups()
    return comment + (_filled(name) if kind == "table" else _all_rows(name.split(", "), table))


def written(text: str) -> str:
    """A page with the figures of its rows.

    Raises:
        ValueError: A comment starts a line: Markdown then takes the whole line for HTML.
    """
    misplaced = re.search(r"^ *<!--[\w-]+: .*", text, re.M)
    if misplaced is not None:
        raise ValueError(f"move this into the line before or after: {misplaced[0]}")
    text = TABLE.sub(_table, text)
    return MARKED.sub(lambda found: found[1] + figure(found[2], found[3]), text)


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
