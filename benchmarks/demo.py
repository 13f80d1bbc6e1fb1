"""`make demo` as a newcomer runs it: in fresh clones, and then the example that it names.

    python benchmarks/demo.py --clones 3

For each clone: seconds of `make demo` (without those that install, which come first), whole seeds,
the advice, and the accuracies that the example prints beside those of the table. A training agrees
with the table if it lies in the 95% prediction interval of the row's seeds. --results gets demo.md.
"""

import argparse
import csv
import json
import re
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from nfaug.compare.figures import student
from nfaug.io.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]


def ran(command: str, folder: Path) -> str:
    """What a command prints on standard output."""
    done = subprocess.run(
        command, cwd=folder, shell=True, text=True, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def accuracies_of(folder: Path) -> dict[str, list[float]]:
    """The accuracies of each row of the table, in per cent, one for each whole seed."""
    found: dict[str, list[float]] = {}
    for row in csv.DictReader((folder / "cells.csv").read_text().splitlines()):
        found.setdefault(row["augmentation"], []).append(float(row["accuracy"]))
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and the half-width of the interval in which 95% of further values lie."""
    count = len(values)
    half = student(0.025, count - 1) * statistics.stdev(values) * (1 + 1 / count) ** 0.5
    return statistics.fmean(values), half


def demo(folder: Path, number: int) -> str:
    """A line of the table, for a clone in `folder`."""
    ran(f"git clone --quiet {shlex.quote(str(ROOT))} {shlex.quote(str(folder))}", ROOT)
    ran("make .venv/train-installed", folder)
    started = time.monotonic()
    said = ran("make demo", folder)
    seconds = time.monotonic() - started
    advice = said.split("\n\n")[0].splitlines()[-1]
    example = re.search(r"^python (examples/.*)$", said, re.MULTILINE)
    assert example is not None, said
    printed = ran(f".venv/bin/python {example[1]}", folder).splitlines()[-1]
    shown = [float(value) for value in re.findall(r"([\d.]+)% with", printed)]
    table = accuracies_of(folder / "build" / "demo")
    row = re.search(r"--row (\S+)", example[1])
    assert row is not None
    name = row[1].replace("nfa", "nfa:builtin:pixels")
    figures = []
    left_out = json.loads((folder / "build" / "demo" / "plan.json").read_text())["left_out"]
    for key, accuracy in zip(dict.fromkeys(("none", name)), shown, strict=True):
        mean, half = interval(table[key])
        agrees = "agrees" if abs(accuracy - mean) <= half else "DIFFERS"
        figures.append(f"{key}: {accuracy:.1f}%, table {mean:.1f} ± {half:.1f}, {agrees}")
    seeds = {len(values) for key, values in table.items() if key not in left_out}
    assert len(seeds) == 1, "a seed is whole or not begun"
    return f"| {number} | {seconds:.0f} | {seeds.pop()} | {advice} | {'; '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clones", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    lines = [
        "# The demo in fresh clones",
        "",
        f"`python benchmarks/demo.py --clones {args.clones}`",
        "",
        "| clone | seconds of `make demo` | whole seeds | advice | the example, and the table |",
        "|---|---|---|---|---|",
    ]
    for number in range(1, args.clones + 1):
        with tempfile.TemporaryDirectory(prefix="nfaug-demo-") as folder:
            lines.append(demo(Path(folder) / "clone", number))
        print(lines[-1], flush=True)
    write_text(args.results / "demo.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
