"""How to fine-tune on few images: learning rates, and what the new head starts from.

    python lab/finetuning.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a pretrained network is fine-tuned on --per-class labelled images of each class,
with what is safe for the images alone: at several peak learning rates, with a head that timm draws
at random, and with such a head that learns thirty times faster, as nfaug did before.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from sets import SETS, cells_of, config_of, new_parser, opened, train_all, trained

from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell

DEFAULT = "lr 6e-4"
RANDOM_HEAD = "lr 6e-4, a random head"
FAST_HEAD = "lr 3e-4, a random head with 30 times as much"  # as nfaug did before
RATES = {
    "lr 3e-4": 3e-4,
    DEFAULT: 6e-4,
    "lr 1e-3": 1e-3,
    "lr 2e-3": 2e-3,
    RANDOM_HEAD: 6e-4,
    FAST_HEAD: 3e-4,
}


class RandomHead(Classifier):
    """A classifier whose new head has timm's random weights."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.model.reset_classifier(self.model.num_classes)


class FastHead(RandomHead):
    """A classifier whose new head learns thirty times faster than the rest."""

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = super()._optimizer()
        (group,) = optimizer.param_groups
        head = list(self.model.get_classifier().parameters())
        group["params"] = [p for p in group["params"] if all(p is not one for one in head)]
        optimizer.add_param_group({"params": head, "lr": 30 * group["lr"]})
        return optimizer


KINDS = {RANDOM_HEAD: RandomHead, FAST_HEAD: FastHead}


def train(
    args: argparse.Namespace, name: str, methods: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each method."""
    pool, test = opened(args.data, name, args.image_size)
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    cells = {}
    for method in methods:
        started = time.monotonic()
        config = replace(config_of(args, "finetuned"), lr=RATES[method])
        kind = KINDS.get(method, Classifier)
        classifier = trained(config, SETS[name].safe, few, None, seed, kind)
        right = classifier.right(*test).numpy()
        cells[method] = Cell(right, time.monotonic() - started)
    return cells


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "finetuning")
    parser.add_argument("--steps", type=int, help="default: 300")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    if args.weights is None:
        parser.error("fine-tuning needs --weights")
    found = {}
    for name in args.sets:
        folder = args.out / name
        found[name] = cells_of(args, name, "finetuned", folder, args.image_size)
    train_all(args, found, lambda _: [[method] for method in RATES], train)


if __name__ == "__main__":
    main()
