"""How to fine-tune on few images: learning rates, and what the new head starts from.

    python benchmarks/finetuning.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a pretrained network is fine-tuned on --per-class labelled images of each class,
with what is safe for the images alone: at several peak learning rates, with a head that timm draws
at random, and with such a head that learns thirty times faster, as nfaug did before. --out keeps
the cells, so that the same command goes on; --results gets finetuning.md.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sets import (
    SETS,
    cells_of,
    command_of,
    config_of,
    gain,
    hours_of,
    mean_of,
    new_parser,
    opened,
    train_all,
    trained,
)

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell
from nfaug.data.images import split_per_class
from nfaug.io.atomic import write_text

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


def train(args: argparse.Namespace, name: str, rows: Sequence[str], seed: int) -> dict[str, Cell]:
    """The cell of each row."""
    pool, judged = opened(args.data, name, args.image_size)
    few, _ = split_per_class(pool, args.per_class, seed)
    cells = {}
    for row in rows:
        started = time.monotonic()
        config = replace(config_of(args, "finetuned"), lr=RATES[row])
        kind = KINDS.get(row, Classifier)
        classifier = trained(config, SETS[name].safe, few, None, seed, kind)
        right = classifier.right(*judged).numpy()
        cells[row] = Cell(right, time.monotonic() - started)
    return cells


def page(args: argparse.Namespace, found: Mapping[str, Cells]) -> str:
    """The accuracy of each row, and what more it has than the default."""
    lines = ["# How to fine-tune", "", command_of("finetuning.py"), ""]
    lines += [
        f"{args.per_class} labelled images per class at {args.image_size} pixels. Accuracy in per "
        f'cent, and in brackets what more it is than that of "{DEFAULT}", with a 95% interval. '
        f"{hours_of(found):.1f} hours of a core.",
        "",
        f"| images | {' | '.join(RATES)} |",
        "|---" * (1 + len(RATES)) + "|",
    ]
    for name, cells in found.items():
        shown = []
        for row in RATES:
            more = "" if row == DEFAULT else f" ({gain(cells, row, DEFAULT)})"
            shown.append(f"{mean_of(cells, row):.1f}{more}")
        lines.append(f"| {SETS[name].title} | {' | '.join(shown)} |")
    means = [f"{np.mean([mean_of(cells, row) for cells in found.values()]):.1f}" for row in RATES]
    lines.append(f"| **mean of the sets** | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


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

    def write() -> None:
        write_text(args.results / "finetuning.md", page(args, found))

    train_all(args, found, lambda _: [[row] for row in RATES], train, write)


if __name__ == "__main__":
    main()
