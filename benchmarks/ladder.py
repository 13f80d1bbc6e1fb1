"""What to do with ten labelled images per class: freeze or fine-tune, with NFA and RandAugment.

    python benchmarks/ladder.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, tars NAME-train.tar and NAME-validation.tar in the folder --data, the rows of
`nfaug compare`: frozen ones at the network's own resolution with --frozen-seeds, fine-tuned ones at
--image-size with --seeds. Frozen rows of all sets come first, since they are cheap. With --minutes
a second comparison of each is what a user gets in that time. --out keeps the cells of each, so that
the same command goes on after an interruption. --results gets a CSV file of cells for each
comparison, which grows, and the page README.md.
"""

import argparse
import platform
import shlex
import sys
from pathlib import Path

import torch

from nfaug.compare import CompareConfig, Comparison, compare
from nfaug.compare.rows import ROWS, usual_ways
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text

#: What keeps the class of the images of each set.
SETS = {
    "blood128": "rotate",
    "clothing128": "flip,crop",
    "sign64": "crop",
    "letters64": "crop",
    "steel128": "rotate",
    "grocery128": "flip,crop",
}
FOR_EVER = 1e6  # minutes


def compared(args: argparse.Namespace, name: str, kind: str) -> Comparison:
    """The comparison of a set, which goes on where it stopped."""
    size = (args.image_size, args.image_size)
    data = open_dataset(args.data / f"{name}-train.tar", image_size=size)
    test = open_dataset(args.data / f"{name}-validation.tar", image_size=size)
    out = args.out / f"{name}-{'short' if kind == 'short' else 'long'}"

    def part(rows: list[str], seeds: int, minutes: float) -> Comparison:
        settings = CompareConfig(
            per_class=args.per_class,
            network=args.network,
            weights=str(args.weights),
            augment=SETS[name],
            rows=",".join(rows),
            seeds=seeds,
            minutes=minutes,
            steps=args.steps,
            device=args.device,
        )
        return compare(data, config=settings, out=out, test_data=test, processes=args.processes)

    rows = usual_ways(pretrained=True, spectrogram=False)
    if kind == "short":
        found = part(rows, args.frozen_seeds, args.minutes)
    elif kind == "frozen":
        found = part([row for row in rows if ROWS[row].frozen], args.frozen_seeds, FOR_EVER)
    else:
        found = part(rows, args.seeds, FOR_EVER)
    write_text(args.results / f"{out.name}.csv", (out / "cells.csv").read_text())
    # The number of seeds is decided before: going on with the next part is no look at results.
    found.look = 1
    return found


def page(args: argparse.Namespace, found: dict[tuple[str, str], Comparison]) -> str:
    """The page of all comparisons so far."""
    lines = ["# Frozen features or fine-tuning, with NFA and RandAugment", ""]
    lines += [f"`python benchmarks/ladder.py {shlex.join(args.given)}`", ""]
    hours = sum(one.seconds for one in found.values()) / 3600
    lines += [
        f"{args.per_class} labelled images per class, {args.network}. {hours:.1f} hours of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{args.processes} at once.",
        "",
    ]
    for (name, kind), one in found.items():
        title = name if kind == "long" else f"{name}, {args.minutes:g} minutes"
        lines += [f"## {title}", "", one.text()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=96, help="pixels for fine-tuning")
    parser.add_argument("--frozen-seeds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5, help="of fine-tuned networks")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, help="of a second, short comparison of each set")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/ladder"))
    args = parser.parse_args()
    args.given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    args.results.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], Comparison] = {}
    kinds = ["frozen", "long", "short"] if args.minutes else ["frozen", "long"]
    for kind in kinds:
        for name in args.sets:
            comparison = compared(args, name, kind)
            found[name, "short" if kind == "short" else "long"] = comparison
            write_text(args.results / "README.md", page(args, found))
            print(f"{name}, {kind}: {comparison.advice()}", flush=True)


if __name__ == "__main__":
    main()
