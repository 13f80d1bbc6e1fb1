"""What commands save by keeping freed memory: seconds, pages touched anew, and the largest size.

    python benchmarks/memory.py --data clothing128-train.tar

Each command runs in processes of its own, in turn with and without `keep_freed_memory`, on one
thread; seconds are those of a core, with the imports. --results gets memory.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from nfaug.io.atomic import write_text

RUN = """
import sys
from nfaug import cli
if sys.argv[1] == "given back":
    cli.keep_freed_memory = lambda: None
raise SystemExit(cli.main(sys.argv[2:]))
"""
KINDS = ("given back", "kept")
ROUNDS = 3


def commands(data: Path, folder: Path, images: int) -> dict[str, list[str]]:
    """Words of the commands by name; the first two make what the others need."""
    few = ["--data", str(data), "--per-class", str(images)]
    rgb32, pixels = str(folder / "rgb32"), str(folder / "pixels")
    bank = ["--variants", "4", "--overwrite", "--out", str(folder / "bank")]
    fit = ["fit", *few, "--overwrite", "--checkpoint"]
    return {
        "fit, rgb32": [*fit, "builtin:rgb32", "--gaussians", "data", "--out", rgb32],
        "fit, pixels at 128": [*fit, "builtin:pixels", "--image-size", "128", "--out", pixels],
        "eval, rgb32": ["eval", "--checkpoint", rgb32, "--data", str(data), "--split", "train"],
        "bank, rgb32 at 32": ["bank", "--checkpoint", rgb32, *few, "--image-size", "32", *bank],
        "bank, pixels at 128": ["bank", "--checkpoint", pixels, *few, "--image-size", "128", *bank],
    }


def measured(kind: str, words: list[str]) -> dict[str, float]:
    """Seconds of a core, faults and MB of a command in a process of its own."""
    code = f"""
import json, resource, subprocess, sys
ran = subprocess.run([sys.executable, "-c", {RUN!r}, {kind!r}, *{words!r}], capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
assert ran.returncode == 0, ran.stderr
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_minflt, used.ru_maxrss / 1024]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(("seconds", "faults", "MB"), json.loads(ran.stdout), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60, help="of each class")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    lines = [
        "# Freed memory, given back or kept",
        "",
        f"`python benchmarks/memory.py --data {args.data.name} --images {args.images}`, one "
        f"thread, medians of {ROUNDS} rounds in turn, seconds of a core with imports",
        "",
        "| command | seconds | kept | ratio | faults | kept | MB | kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as root:
        for name, words in commands(args.data.resolve(), Path(root), args.images).items():
            rounds = [{kind: measured(kind, words) for kind in KINDS} for _ in range(ROUNDS)]
            cells = []
            for figure in ("seconds", "faults", "MB"):
                middles = [statistics.median(r[kind][figure] for r in rounds) for kind in KINDS]
                digits = 2 if figure == "seconds" else 0
                cells += [f"{middle:,.{digits}f}" for middle in middles]
                if figure == "seconds":
                    ratios = [r["kept"]["seconds"] / r["given back"]["seconds"] for r in rounds]
                    cells.append(f"{statistics.median(ratios):.2f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_text(args.results / "memory.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
