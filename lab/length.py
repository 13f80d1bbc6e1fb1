"""How long a classifier must be trained until the method without an augmentation gains no more.

    python lab/length.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets (those of lab/sets.py) and each number of --steps, classifiers are
trained on --per-class labelled images of each class, with what is safe for the images alone and
with NFA in pixels.
"""

import argparse
from collections.abc import Sequence

from defaults import train_method
from sets import NFA, NOTHING, cells_of, networks_of, new_parser, size_of, train_all

from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell

Study = tuple[str, str, int]  # a data set, a network, and a number of steps
Found = dict[Study, Cells]


def with_steps(args: argparse.Namespace, steps: int) -> argparse.Namespace:
    """The options with one number of steps."""
    return argparse.Namespace(**{**vars(args), "steps": steps})


def train(
    args: argparse.Namespace, study: Study, methods: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each method."""
    name, network, steps = study
    given = with_steps(args, steps)
    return {method: train_method(given, (name, network), method, seed) for method in methods}


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "length")
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 400, 800, 1600])
    parser.add_argument("--finetuned-steps", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    found: Found = {}
    for name in args.sets:
        for network in networks_of(args):
            size = size_of(args, name, network)
            for steps in args.steps if network == "scratch" else args.finetuned_steps:
                folder = args.out / f"{name}-{network}-{steps}"
                given = with_steps(args, steps)
                found[name, network, steps] = cells_of(given, name, network, folder, size)
    train_all(args, found, lambda _: [[NOTHING], [NFA]], train)


if __name__ == "__main__":
    main()
