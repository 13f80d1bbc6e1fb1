"""`make demo` as a newcomer runs it: in fresh clones, alone and beside jobs that take a core each.

    python benchmarks/demo.py --jobs 0 1 2

For each number of jobs, `make demo` runs in a clone of its own: its seconds (without those of the
installation, which comes first), its advice, whether its cells are those of the first clone, byte
for byte but for their seconds, and the accuracies of the example that it names beside those of
seed 0 in the table. In one more clone the demo is killed in the middle, and then run again.
--results gets demo.md.
"""

import argparse
import contextlib
import csv
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nfaug.io.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
KILLED_AFTER = 7  # classifiers


def spin() -> None:
    """Take a core."""
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def beside(jobs: int) -> Iterator[None]:
    """Run so many processes, each of which takes a core, during a block."""
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(jobs)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.terminate()


def ran(command: str, folder: Path) -> str:
    """What a command prints on standard output."""
    done = subprocess.run(
        command, cwd=folder, shell=True, text=True, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def cloned(folder: Path) -> Path:
    """A clone with its environment installed."""
    ran(f"git clone --quiet {shlex.quote(str(ROOT))} {shlex.quote(str(folder))}", ROOT)
    ran("make .venv/train-installed", folder)
    return folder


def cells_of(folder: Path) -> list[dict[str, str]]:
    """The cells of a demo, without their seconds."""
    lines = csv.DictReader((folder / "build/demo/cells.csv").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def demo(clone: Path, name: str, expected: list[dict[str, str]]) -> str:
    """A line of the table, for a demo in a clone; `expected` are the cells of the first one."""
    started = time.monotonic()
    said = ran("make demo", clone)
    seconds = time.monotonic() - started
    advice = (clone / "build/demo/table.md").read_text().splitlines()[0]
    assert advice in said
    same = "yes" if cells_of(clone) == (expected or cells_of(clone)) else "NO"
    return f"| {name} | {seconds:.0f} | {len(cells_of(clone))} | {same} | {advice} |"


def example_of(clone: Path) -> str:
    """The accuracies of the example that the demo names, beside seed 0 of the table."""
    said = ran("make demo", clone)
    command = re.search(r"^python (examples/.*)$", said, re.MULTILINE)
    assert command is not None, said
    printed = ran(f".venv/bin/python {command[1]}", clone).splitlines()[-1]
    table = []
    for cell in cells_of(clone):
        if cell["seed"] == "0":
            table.append(f"{cell['augmentation']} {float(cell['accuracy']):.1f}%")
    return f"The example: {printed}. Seed 0 of the table: {', '.join(table)}."


def killed(clone: Path) -> None:
    """Start a demo, and kill it with all its processes after some classifiers."""
    process = subprocess.Popen(["make", "demo"], cwd=clone, start_new_session=True)
    file = clone / "build/demo/cells.csv"
    while not file.exists() or len(cells_of(clone)) < KILLED_AFTER:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    command = f"python benchmarks/demo.py --jobs {' '.join(map(str, args.jobs))}"
    lines = [
        "# The demo in fresh clones",
        "",
        f"`{command}`, {os.cpu_count()} cores",
        "",
        "| beside | seconds of `make demo` | classifiers | the same cells | advice |",
        "|---|---|---|---|---|",
    ]
    expected: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="nfaug-demo-") as folder:
        for jobs in args.jobs:
            clone = cloned(Path(folder) / str(jobs))
            with beside(jobs):
                lines.append(demo(clone, f"{jobs} jobs", expected))
            print(lines[-1], flush=True)
            expected = expected or cells_of(clone)
        clone = cloned(Path(folder) / "killed")
        killed(clone)
        lines.append(demo(clone, f"killed after {KILLED_AFTER} classifiers, then", expected))
        print(lines[-1], flush=True)
        lines += ["", example_of(clone)]
        print(lines[-1], flush=True)
    write_text(args.results / "demo.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
