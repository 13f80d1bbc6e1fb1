"""The frozen run: every augmentation at its defaults, on test images that no choice has seen.

    python lab/final.py --data DATA --weights tf_efficientnet_lite0.safetensors

The protocol is lab/results/final/README.md, which was committed before the run. --data is a folder
of tars that `python lab/data.py NAME --out DATA` makes.
"""

from dataclasses import replace

from defaults import Study, methods_of, train
from sets import SETS, cells_of, networks_of, new_parser, size_of, train_all

from nfaug.compare.cells import Cells

TESTS = {
    "cifar10": "cifar10-png-unseen.tar",
    "cells": "blood128-test.tar",
    "clothes": "clothing128-test.tar",
    "signs": "sign64-test.tar",
    "letters": "letters64-test.tar",
    "steel": "steel128-test.tar",
    "groceries": "grocery128-test.tar",
}
FIRST_SEED = 100  # of labelled images of these files, which no choice has drawn
SEEDS = 8

for _name, _test in TESTS.items():  # also in the processes of train_all
    SETS[_name] = replace(SETS[_name], test=_test)
SETS["cifar10"] = replace(SETS["cifar10"], train="cifar10-png-train.tar")


def main() -> None:
    parser = new_parser((__doc__ or "").splitlines()[0], "final")
    parser.add_argument("--steps", type=int, help="other than by the protocol, for a test")
    parser.set_defaults(sets=list(TESTS))
    args = parser.parse_args()
    args.seeds = SEEDS
    found: dict[Study, Cells] = {}
    for name in args.sets:
        for network in networks_of(args):
            size = size_of(args, name, network)
            folder = args.out / f"{name}-{network}"
            found[name, network] = cells_of(args, name, network, folder, size)
    train_all(
        args, found, lambda study: [[method] for method in methods_of(study[0])], train, FIRST_SEED
    )


if __name__ == "__main__":
    main()
