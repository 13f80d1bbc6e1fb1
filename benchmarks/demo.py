"""How often `make demo` finds that NFA helps: the demo again and again, each with ten new seeds.

    python benchmarks/demo.py

Each seed draws its own labelled images, weights and augmentations. A block of ten seeds is a demo
for which there is time for all of them. --out keeps what is done, and the same command goes on.
--results gets demo.md.
"""

import argparse
import copy
import shlex
import sys
from pathlib import Path

from nfaug.compare import CompareConfig, Comparison, compare
from nfaug.compare.cells import Cells
from nfaug.compare.figures import gain_of
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text
from nfaug.io.strict_json import read_json

SEEDS = 10  # of a demo
ROWS = "none,randaugment,nfa,nfa+randaugment"
NFA = "nfa:builtin:pixels"
RIVALS = ("none", "randaugment")


def config_of(seeds: int) -> CompareConfig:
    """The settings of the demo, see the Makefile."""
    return CompareConfig(
        per_class=10, augment="flip,crop", rows=ROWS, steps=400, p=0.75, seeds=seeds, minutes=1e6
    )


def block_of(cells: Cells, number: int) -> Cells:
    """The cells of a block of seeds."""
    block = copy.copy(cells)
    for row, seed in cells:
        if seed // SEEDS != number:
            del block[row, seed]
    return block


def page(args: argparse.Namespace, cells: Cells) -> str:
    """A line for each block, and how many found NFA clear of zero."""
    lines = ["# The demo with other seeds", ""]
    lines += [f"`python benchmarks/demo.py {shlex.join(args.given)}`".replace(" `", "`"), ""]
    lines += [
        f"{args.blocks} comparisons as `make demo` runs them, with {SEEDS} seeds each; gains in "
        f"points of accuracy with 95% intervals. {cells.seconds / 3600:.1f} hours of a core.",
        "",
        "| seeds | NFA over no augmentation | NFA over RandAugment | advice |",
        "|---|---|---|---|",
    ]
    clear = 0
    for number in range(args.blocks):
        block = block_of(cells, number)
        seeds = range(number * SEEDS, (number + 1) * SEEDS)
        gains = []
        for rival in RIVALS:
            ours = [block[NFA, seed] for seed in seeds]
            gains.append(gain_of(ours, [block[rival, seed] for seed in seeds]))
        clear += gains[0].mean > gains[0].half
        advice = Comparison(config_of(SEEDS), block).advice()
        figures = " | ".join(str(gain) for gain in gains)
        lines.append(f"| {seeds[0]} to {seeds[-1]} | {figures} | {advice} |")
    lines += ["", f"NFA is clear of zero in {clear} of {args.blocks}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    images = open_dataset("builtin:clothes")
    judged = open_dataset("builtin:clothes", split="test")
    config = config_of(args.blocks * SEEDS)
    compare(images, args.out, config=config, test_data=judged, processes=args.processes)
    cells = Cells(args.out, read_json(args.out / "settings.json"), len(judged))
    write_text(args.results / "demo.md", page(args, cells))


if __name__ == "__main__":
    main()
