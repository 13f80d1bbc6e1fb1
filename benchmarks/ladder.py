"""What to do with ten labelled images per class: freeze or fine-tune, with NFA and RandAugment.

    python benchmarks/ladder.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, the rows of `nfaug compare`: frozen ones at the network's own resolution with
--frozen-seeds, fine-tuned ones at --image-size with --seeds. Frozen rows of all sets come first,
since they are cheap. --out keeps the cells of each set, so that the same command goes on after an
interruption. --results gets a CSV file of cells for each set, which grows, and the page README.md.
"""

import argparse
import platform
from pathlib import Path

import torch
from sets import SETS, command_of, new_parser, parts_of

from nfaug.compare import CompareConfig, Comparison, compare
from nfaug.compare.rows import ROWS, usual_ways
from nfaug.io.atomic import write_text

USUAL = ["cells", "clothes", "signs", "letters", "steel", "groceries"]
FOR_EVER = 1e6  # minutes


def compared(args: argparse.Namespace, name: str, frozen: bool) -> Comparison:
    """The comparison of a set, which goes on where it stopped: its frozen rows, or all."""
    data, test = parts_of(args.data, name, args.image_size)
    out = args.out / name
    safe = SETS[name].safe
    rows = usual_ways(pretrained=True, spectrogram=safe == "spectrogram")
    settings = CompareConfig(
        per_class=args.per_class,
        network=args.network,
        weights=str(args.weights),
        augment=safe,
        rows=",".join(row for row in rows if ROWS[row].frozen or not frozen),
        seeds=args.frozen_seeds if frozen else args.seeds,
        minutes=FOR_EVER,
        steps=args.steps,
        device=args.device,
    )
    found = compare(data, config=settings, out=out, test_data=test, processes=args.processes)
    write_text(args.results / f"{name}.csv", (out / "cells.csv").read_text())
    # The number of seeds is decided before: going on with the next part is no look at results.
    found.look = 1
    return found


def page(args: argparse.Namespace, found: dict[str, Comparison]) -> str:
    """The page of all comparisons so far."""
    lines = ["# Frozen features or fine-tuning, with NFA and RandAugment", ""]
    lines += [command_of("ladder.py"), ""]
    hours = sum(one.seconds for one in found.values()) / 3600
    lines += [
        f"{args.per_class} labelled images per class, {args.network}. {hours:.1f} hours of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{args.processes} at once.",
        "",
    ]
    for name, one in found.items():
        lines += [f"## {SETS[name].title}", "", one.text()]
    return "\n".join(lines)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "ladder")
    parser.set_defaults(sets=USUAL, image_size=96, results=Path("benchmarks/results/ladder"))
    parser.add_argument("--frozen-seeds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=8, help="of fine-tuned networks")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.weights is None:
        parser.error("frozen features and fine-tuning need --weights")
    args.results.mkdir(parents=True, exist_ok=True)
    found: dict[str, Comparison] = {}
    for frozen in (True, False):
        for name in args.sets:
            found[name] = compared(args, name, frozen)
            write_text(args.results / "README.md", page(args, found))
            print(f"{name}: {found[name].advice()}", flush=True)


if __name__ == "__main__":
    main()
