"""What the limit of 1,000 images of each class costs or saves, where a class has 5,000.

    python lab/limit.py --data cifar10-train-50000.tar --test-data cifar10-test.tar

A small network is trained from scratch on all images with flips and shifts: without NFA, with NFA
in pixels fitted to --limits images of each class, which are also the partners, and with all. NFA
has p = 0.5 and draws in the loop. Weights and batches of a seed are the same for each. --out keeps
cells, and the same command goes on. --results gets a CSV file of cells and fits.csv, the seconds
and the memory of each fit.
"""

import argparse
import csv
import io
import time
from pathlib import Path

import torch
from sets import NOTHING, gains_table, keep
from torch import Tensor

import nfaug
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.transforms import transform_of
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.io.atomic import write_text

SIDE = 32


def name_of(limit: int) -> str:
    return f"NFA in pixels, {limit:,} images of each class"


def fitted(images: Images, limit: int) -> tuple[nfaug.Checkpoint, float]:
    """A fit to so many images of each class, and its seconds of a core."""
    started = time.process_time()
    checkpoint = nfaug.fit("builtin:pixels", images, per_class=limit, progress=False)
    return checkpoint, time.process_time() - started


def megabytes_of(checkpoint: nfaug.Checkpoint) -> float:
    """Of the axes and the memory."""
    return sum(tensor.nbytes for tensor in checkpoint.pca.buffers()) / 1e6


def trained(
    images: Tensor, labels: Tensor, nfa: nfaug.NFAugment | None, steps: int, seed: int
) -> Classifier:
    """A classifier, with NFA after the transform if there is one."""
    transform = transform_of(("flip", "crop"), "", (SIDE, SIDE))
    torch.manual_seed(seed)

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = transform(images[rows])
        return (batch, labels[rows]) if nfa is None else nfa(batch, labels[rows])

    classes = int(labels.max()) + 1
    config = CompareConfig(steps=steps, device="cpu")
    classifier = Classifier(config, images.shape[1:], classes, seed)
    classifier.train(draw, len(labels))
    return classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test-data", type=Path, required=True)
    parser.add_argument("--limits", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/limit"))
    parser.add_argument("--results", type=Path, default=Path("lab/results/limit"))
    args = parser.parse_args()
    print(nfaug.__file__, flush=True)
    torch.set_num_threads(1)
    stored = nfaug.open_dataset(args.data, image_size=SIDE, progress=False)
    images = decode(stored, progress=False)
    labels = stored.targets
    tested = nfaug.open_dataset(args.test_data, image_size=SIDE, progress=False)
    test = decode(tested, progress=False), tested.targets
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("limit", "seconds", "megabytes"))
    checkpoints: dict[str, nfaug.Checkpoint] = {}
    for limit in args.limits:
        checkpoint, seconds = fitted(stored, limit)
        checkpoints[name_of(limit)] = checkpoint
        table.writerow((limit, f"{seconds:.1f}", f"{megabytes_of(checkpoint):.1f}"))
    print(text.getvalue(), flush=True)
    methods = (NOTHING, *checkpoints)
    record = {"images": len(labels), "steps": args.steps, "limits": args.limits}
    cells = Cells(args.out / "cells", record, len(test[1]))
    for seed in range(args.seeds):
        for method in methods:
            if (method, seed) in cells:
                continue
            started = time.process_time()
            nfa = None
            if method != NOTHING:
                generator = torch.Generator().manual_seed(seed)
                nfa = nfaug.NFAugment(checkpoints[method], generator=generator)
            classifier = trained(images, labels, nfa, args.steps, seed)
            seconds = time.process_time() - started
            right = classifier.right(*test)
            cells.add(method, seed, right.numpy(), seconds)
            print(
                f"{method}, {seed}: {100 * right.float().mean():.1f}%, {seconds:.0f} s", flush=True
            )
        keep(args.results, {"cells": cells})
    write_text(args.results / "fits.csv", text.getvalue())
    print("\n".join(gains_table("CIFAR-10", cells, methods, NOTHING, name_of(args.limits[0]))))


if __name__ == "__main__":
    main()
