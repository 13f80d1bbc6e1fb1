"""Many images of some classes and few of others: NFA against oversampling and its like.

    python lab/imbalance.py --data blood128-train.tar --test-data blood128-validation.tar \\
        --augment rotate --out runs/imbalance/blood

Half of the classes, drawn by the seed, keep --few of their --many images; the test data should have
as many of each class. Classifiers are trained as by `nfaug compare`; the same command continues.
--out gets table.md and a CSV row for each classifier. --methods are words joined by "+":

- over: oversampling, as many images of each class; weights: a loss weight of 1/n; softmax: balanced
  softmax (arXiv:2007.10740), which adds log n to the logits in training;
- nfa: variants in pixels replace images with p = 0.5; fill: with p = 1 - n/n_max, so that no image
  is shown more often than those of the largest class.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from sets import gains_table
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.methods import PIXELS
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of
from nfaug.data.batches import decode
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text

METHODS = ["plain", "over", "weights", "softmax", "nfa+over", "nfa+over+fill", "nfa+softmax+fill"]


class Balanced(nn.Module):
    """A network whose logits have log n added in training."""

    def __init__(self, network: nn.Module, counts: Tensor) -> None:
        super().__init__()
        self.network, self.prior = network, counts.log()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + self.prior if self.training else logits


def train(method: set[str], data: Any, test: Any, seed: int, args: argparse.Namespace) -> Tensor:
    """Which test images a classifier gets right."""
    kept = data.split(per_class=args.many, seed=seed)[0]
    classes = len(kept.classes)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    rare = order[: classes // 2]
    rows = [(kept.targets == y).nonzero().flatten() for y in range(classes)]
    kept = kept.subset(torch.cat([r[: args.few] if y in rare else r for y, r in enumerate(rows)]))
    images = decode(kept, progress=False)
    labels = kept.targets
    counts = torch.bincount(labels).float()
    settings = CompareConfig(lr=args.lr, steps=args.steps, device="cpu")
    weights, filled = len(labels) / classes / counts, 1 - counts / counts.max()
    bank = bank_of(PIXELS, kept, settings, seed) if "nfa" in method else images[:, None]
    classifier = Classifier(settings, images.shape[1:], classes, seed)
    if "softmax" in method:
        classifier.model = Balanced(classifier.model, counts)
    safe = transform_of(tuple(args.augment.split(",")), "", images.shape[2:])

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        if "over" in method:
            rows = torch.multinomial(weights[labels], len(rows), replacement=True)
        targets = labels[rows]
        p = filled[targets] if "fill" in method else 0.5 if "nfa" in method else 0.0
        chosen = (torch.rand(len(rows)) < p)[:, None, None, None]
        variants = bank[rows, torch.randint(bank.shape[1], rows.shape)]
        batch = safe(torch.where(chosen, variants, images[rows]))
        hot = F.one_hot(targets, classes) * weights[targets][:, None]
        return (batch, hot) if "weights" in method else (batch, targets)

    torch.manual_seed(seed)
    classifier.train(draw, len(labels))
    return classifier.right(*test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data", "--test-data", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--augment", default="crop", help="what is safe, as for nfaug compare")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    args = parser.parse_args()
    torch.set_num_threads(1)  # hours are those of a core
    data = open_dataset(args.data, image_size=args.image_size)
    size, channels = data.image_size, data.channels
    tested = open_dataset(args.test_data, image_size=size, channels=channels)
    test = decode(tested), tested.targets
    record = {k: v for k, v in vars(args).items() if k not in ("out", "seeds", "methods")}
    cells = Cells(Path(args.out), record, len(test[1]))
    for seed in range(args.seeds):
        for method in args.methods:
            if (method, seed) not in cells:
                started = time.monotonic()
                right = train({*method.split("+")}, data, test, seed, args)
                cells.add(method, seed, right, time.monotonic() - started)
        title = f"{args.many} and {args.few} images"
        lines = gains_table(title, cells, args.methods, *args.methods[:2])
        write_text(Path(args.out) / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
