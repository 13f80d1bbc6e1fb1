"""Is NFA as good with one flow as with another? From scratch, on four datasets.

    python lab/bundled.py --data DATA --color builtin:rgb32 runs/rgb32-fpi \\
        --gray builtin:gray28 builtin:fashion-mnist

CIFAR-10 and hand signs take the flows of --color, Fashion-MNIST and letters those of --gray, each
fitted to --per-class labelled images of each class. The methods add to what is safe for the images:
nothing, NFA in pixels, and NFA with each flow, at the defaults of `nfaug compare`. --data is a
folder of tars.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sets import (
    NFA,
    NOTHING,
    SETS,
    cells_of,
    config_of,
    gains_table,
    new_parser,
    opened,
    train_all,
    trained,
)

from nfaug.compare.figures import Cell
from nfaug.compare.methods import PIXELS
from nfaug.compare.work import bank_of

COLOR, GRAY = ("cifar10", "signs"), ("fashion", "letters")


def flows_of(args: argparse.Namespace, name: str) -> dict[str, str]:
    """The flows of a set by the names of their methods, pixels among them."""
    flows = args.color if name in COLOR else args.gray
    return {NFA: PIXELS} | {f"NFA with {Path(flow).name}": flow for flow in flows}


def methods_of(args: argparse.Namespace, name: str) -> list[str]:
    return [NOTHING, *flows_of(args, name)]


def train(
    args: argparse.Namespace, name: str, methods: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each method: which test images its classifier gets right."""
    pool, test = opened(args.data, name, SETS[name].size)
    config = config_of(args, "scratch")
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    found = {}
    for method in methods:
        started = time.monotonic()
        flow = flows_of(args, name).get(method)
        bank = None if flow is None else bank_of(flow, few, config, seed)
        classifier = trained(config, SETS[name].safe, few, bank, seed)
        found[method] = Cell(classifier.right(*test).numpy(), time.monotonic() - started)
    return found


def main() -> None:
    parser = new_parser((__doc__ or "").splitlines()[0], "bundled")
    parser.add_argument("--color", nargs="+", required=True, help="flows of three channels")
    parser.add_argument("--gray", nargs="+", required=True, help="flows of one channel")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of a classifier (default: 800)")
    parser.set_defaults(sets=[*COLOR, *GRAY])
    args = parser.parse_args()
    found = {}
    for name in args.sets:
        folder = args.out / name
        found[name] = cells_of(args, name, "scratch", folder, SETS[name].size)
    train_all(args, found, lambda name: [methods_of(args, name)], train)
    for name, cells in found.items():
        _, first, *_ = flows_of(args, name)
        lines = gains_table(SETS[name].title, cells, methods_of(args, name), NOTHING, first)
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
