"""What else a bank could do: fill up classes with few images, and teach by what is hard.

    python benchmarks/levers.py --data blood128-train.tar --test-data blood128-validation.tar \\
        --augment rotate --rare 0.5 --out runs/levers/blood-rare

Classifiers are trained as by `nfaug compare`, in each of the --arms; the same command continues.
--out gets table.md and a CSV row for each classifier. --rare is the share of classes, drawn by the
seed, that keep --few of their --many images; the test data should have as many of each class.

Without NFA ("plain"): over = oversampling, as many images of each class; weights = a loss weight of
1/n; softmax = balanced softmax (arXiv:2007.10740): log n is added to the logits in training. With
NFA in pixels ("nfa"): variants replace images with p = 0.5; fill = with p = 1 - n/n_max, so that
no image is shown more often than those of the largest class; hardest = of four variants that which
is hardest among those that an average of the network (EMA) gives the label, scored every 20 steps
(TeachAugment's rule, arXiv:2202.12513); grow = the strength of mixing grows from 1/4 to 1.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from where import table

from nfaug.data.images import split_per_class, to_tensors
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text
from nfaug.training.compare.classifier import Classifier
from nfaug.training.compare.report import Cells
from nfaug.training.compare.run import bank_of, transform_of
from nfaug.training.compare.settings import PIXELS, CompareSettings

EACH, PARTS, EVERY = 5, 4, 20  # variants of a strength, strengths, steps between two scores


class Balanced(nn.Module):
    """A network whose logits have log n added in training."""

    def __init__(self, network: nn.Module, counts: Tensor) -> None:
        super().__init__()
        self.network, self.prior = network, counts.log()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + self.prior if self.training else logits


def train(arm: set[str], data: Any, test: Any, seed: int, args: argparse.Namespace) -> Tensor:
    """Which test images a classifier gets right."""
    kept = split_per_class(data, args.many, seed)[0]
    classes = len(kept.classes)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    rare = order[: round(args.rare * classes)]
    rows = [(kept.targets == y).nonzero().flatten() for y in range(classes)]
    kept = kept.subset(torch.cat([r[: args.few] if y in rare else r for y, r in enumerate(rows)]))
    images, labels = to_tensors(kept, progress=False)
    counts = torch.bincount(labels).float()
    settings = CompareSettings(lr=args.lr, steps=args.steps, variants=EACH, device="cpu")
    weights, filled = len(labels) / classes / counts, 1 - counts / counts.max()
    strengths = [(part + 1) / PARTS if "grow" in arm else 1.0 for part in range(PARTS)]
    bank = torch.cat([
        bank_of(PIXELS, kept, settings, PARTS * seed + part, strength=s)
        for part, s in enumerate(strengths)
    ], 1) if "nfa" in arm else images[:, None]  # fmt: skip
    classifier = Classifier(settings, images.shape[1:], classes, seed)
    network = classifier.model
    if "softmax" in arm:
        classifier.model = Balanced(network, counts)
    teacher = copy.deepcopy(network)
    safe = transform_of(tuple(args.augment.split(",")), "", images.shape[2:])
    step, hardest = 0, torch.zeros(len(labels), dtype=torch.long)

    @torch.no_grad()
    def score() -> Tensor:
        """For each image, the hardest of four variants that the teacher recognises."""
        four = torch.rand(len(labels), PARTS * EACH).argsort(1)[:, :4]
        variants = bank[torch.arange(len(labels))[:, None], four].flatten(0, 1) / 127.5 - 1
        own = labels.repeat_interleave(4)
        losses = F.cross_entropy(network.eval()(variants), own, reduction="none")
        losses[teacher.eval()(variants).argmax(1) != own] = -1
        network.train()
        return four.gather(1, losses.view(-1, 4).argmax(1, keepdim=True))[:, 0]

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal step, hardest
        if "over" in arm:
            rows = torch.multinomial(weights[labels], len(rows), replacement=True)
        which = torch.randint(bank.shape[1], rows.shape)
        if "grow" in arm:
            which = which % EACH + EACH * (step * PARTS // args.steps)
        if "hardest" in arm:
            for mean, now in zip(
                teacher.state_dict().values(), network.state_dict().values(), strict=True
            ):
                mean.copy_(torch.lerp(mean, now, 0.05) if now.is_floating_point() else now)
            hardest = score() if step % EVERY == 0 else hardest
            which = hardest[rows]
        targets = labels[rows]
        p = filled[targets] if "fill" in arm else 0.5 if "nfa" in arm else 0.0
        chosen = (torch.rand(len(rows)) < p)[:, None, None, None]
        batch = safe(torch.where(chosen, bank[rows, which], images[rows]))
        step += 1
        hot = F.one_hot(targets, classes) * weights[targets][:, None]
        return (batch, hot) if "weights" in arm else (batch, targets)

    torch.manual_seed(seed)
    classifier.train(draw, len(labels))
    return classifier.right(*test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data", "--test-data", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--augment", default="crop", help="what is safe, as for nfaug compare")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--many", type=int, default=10)
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--rare", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--arms", nargs="+", default=["plain", "nfa", "nfa+hardest", "nfa+grow"])
    args = parser.parse_args()
    data = open_dataset(args.data, image_size=args.image_size)
    size, channels = data.image_size, data.channels
    test = to_tensors(open_dataset(args.test_data, image_size=size, channels=channels))
    record = {k: v for k, v in vars(args).items() if k not in ("out", "seeds", "arms")}
    cells = Cells(Path(args.out), record, len(test[1]))
    for seed in range(args.seeds):
        for arm in args.arms:
            if (arm, seed) not in cells:
                started = time.monotonic()
                right = train({*arm.split("+")}, data, test, seed, args)
                cells.add(arm, seed, right, time.monotonic() - started)
        found = {arm: [cells[arm, s] for s in range(seed + 1)] for arm in args.arms}
        lines = table(f"{seed + 1} seeds", found, args.arms[0])
        write_text(Path(args.out) / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
