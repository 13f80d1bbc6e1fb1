"""What `nfaug compare` takes: on an idle machine, and beside jobs that take a core each.

    python benchmarks/busy.py --data clothing128-train.tar

It runs README's command on the images, and prints the seconds until the first table, which has one
seed, and until the advice; and whether the cells are the same, byte for byte but for their seconds.
--results gets busy.md.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo import beside

from nfaug.io.atomic import write_text

OPTIONS = ["--per-class", "10", "--augment", "flip,crop"]  # of README's command


def compared(args: argparse.Namespace, out: Path) -> tuple[float, float]:
    """The seconds until the first table, and until the end."""
    words = [sys.executable, "-m", "nfaug", "compare", "--data", args.data, *OPTIONS]
    words += ["--seeds", str(args.seeds), "--out", str(out)]
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    first = 0.0
    while process.poll() is None:
        time.sleep(0.1)
        if not first and (out / "table.md").exists():
            first = time.monotonic() - started
    if process.returncode:
        sys.exit(process.returncode)
    return first, time.monotonic() - started


def cells_of(out: Path) -> list[list[str]]:
    """The cells of a comparison, without their seconds."""
    with (out / "cells.csv").open(newline="") as file:
        return [[cell for name, cell in line.items() if name != "seconds"]
                for line in csv.DictReader(file)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    command = f"python benchmarks/busy.py --data {Path(args.data).name} --seeds {args.seeds}"
    lines = [
        "# What `nfaug compare` takes",
        "",
        f"`{command} --jobs {' '.join(map(str, args.jobs))}`, {os.cpu_count()} cores",
        "",
        "| beside | seconds until the first table | until the advice | the same cells | advice |",
        "|---|---|---|---|---|",
    ]
    expected: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="nfaug-busy-") as folder:
        for jobs in args.jobs:
            out = Path(folder) / str(jobs)
            with beside(jobs):
                first, whole = compared(args, out)
            found = cells_of(out)
            expected = expected or found
            same = "yes" if found == expected else "NO"
            advice = (out / "table.md").read_text(encoding="utf-8").splitlines()[0]
            lines.append(f"| {jobs} jobs | {first:.0f} | {whole:.0f} | {same} | {advice} |")
            print(lines[-1], flush=True)
    write_text(args.results / "busy.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
