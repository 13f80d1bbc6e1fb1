"""What `nfaug compare` does in ten minutes: on an idle machine, and beside a job that takes a core.

    python benchmarks/ten_minutes.py --data clothing128-train.tar

It runs README's command on the images twice, and prints the seconds until the first row, the number
of whole seeds, the rows that were left out, and the advice. --results gets ten_minutes.md.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nfaug.io.atomic import write_text

OPTIONS = ["--per-class", "10", "--augment", "flip,crop"]  # of README's command


def busy() -> None:
    """Take a core."""
    while True:
        sum(range(10_000))


def compared(args: argparse.Namespace, where: str) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory(prefix="nfaug-ten-minutes-") as folder:
        out = Path(folder) / "out"
        words = [sys.executable, "-m", "nfaug", "compare", "--data", args.data, *OPTIONS]
        words += ["--minutes", f"{args.minutes:g}", "--out", str(out)]
        started = time.monotonic()
        process = subprocess.Popen(
            words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        first = 0.0
        assert process.stderr is not None
        for said in process.stderr:
            print(said, end="", file=sys.stderr)
            if not first and re.search(r", seed 0: [\d.]+%", said):
                first = time.monotonic() - started
        if process.wait() != 0:
            sys.exit(process.returncode)
        seconds = time.monotonic() - started
        plan = json.loads((out / "plan.json").read_text())
        advice = (out / "table.md").read_text().splitlines()[0]
    left_out = ", ".join(plan["left_out"]) or "none"
    figures = [where, f"{first:.0f}", str(plan["seeds"]), left_out, f"{seconds:.0f}", advice]
    return f"| {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    name = os.path.basename(args.data)
    lines = [
        "# Ten minutes of `nfaug compare`",
        "",
        f"`python benchmarks/ten_minutes.py --data {name}`, {os.cpu_count()} cores",
        "",
        "| machine | seconds to the first row | whole seeds | left out | seconds in all | advice |",
        "|---|---|---|---|---|---|",
        compared(args, "idle"),
    ]
    print(lines[-1], flush=True)
    other = multiprocessing.get_context("spawn").Process(target=busy, daemon=True)
    other.start()
    lines.append(compared(args, "beside a job that takes a core"))
    other.kill()
    print(lines[-1], flush=True)
    write_text(args.results / "ten_minutes.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
