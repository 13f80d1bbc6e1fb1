"""Images that a flow, or NFAugment at noise 1e-9, does not give back bit for bit; prints a table.

    python benchmarks/exactness.py
    python benchmarks/exactness.py --count 100000 --data cifar10-test.tar fashion-mnist-test.npz

The images are those of --data (a flow's own test images and foreign ones), converted to the flow's
size and channels, their inversions and rolls, noise, and extremes: black, white, single pixels and
random black and white. Each kind is divided equally among batches of 1, 7 and 256 images, and among
the flow as it is trained and frozen. "flow" counts the images that `encode` and `decode` change,
"worst" is the largest difference in gray levels, and "NFAugment" counts the images that it changes
with noise=1e-9, strength=0 and no gate; "far" of them it leaves as they are. It exits with 1 if
NFAugment changes one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import nfaug
from nfaug.data.open import open_dataset
from nfaug.data.sources.layout import MissingSplitError

BATCHES = (1, 7, 256)
FLOWS = ("builtin:rgb32", "builtin:gray28", "builtin:fashion-mnist")
COLUMNS = ("flow", "images", "count", "flow inexact", "worst", "NFAugment inexact", "far")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and return the number of images that NFAugment changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", nargs="+", default=FLOWS, help="flows with PCA axes")
    parser.add_argument("--data", nargs="*", default=[], metavar="PATH", help="images")
    parser.add_argument(
        "--split", default="test", help="part of the data; data without splits are read whole"
    )
    parser.add_argument("--count", type=int, default=1000, help="number of images in all")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    options = parser.parse_args(arguments)
    kinds = 3 * len(options.data) + 5
    each = max(1, options.count // (len(options.checkpoint) * kinds))
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    total, worst = [0] * (len(COLUMNS) - 2), 0
    for name in options.checkpoint:
        checkpoint = nfaug.load(name)
        generator = torch.Generator().manual_seed(options.seed)
        for kind, images in sources(checkpoint.flow, options, each, generator):
            figures = inexact(checkpoint, images, generator)
            print(f"| {name} | {kind} | {' | '.join(map(str, figures))} |", flush=True)
            total = [a + b for a, b in zip(total, figures, strict=True)]
            worst = max(worst, figures[2])
    total[2] = worst
    print(f"| all | | {' | '.join(map(str, total))} |")
    return total[3]


def sources(
    flow: nfaug.Flow, options: argparse.Namespace, each: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Kinds of images by name: `each` images of the flow's shape, uint8, for every kind."""
    channels, (height, width) = flow.codec.channels, flow.codec.image_size
    shape = (each, channels, height, width)

    def pick(size: int) -> Tensor:
        return torch.randint(size, (each,), generator=generator)

    for path in options.data:
        shaped = {"image_size": (height, width), "channels": channels}
        try:
            data = open_dataset(path, split=options.split, **shaped)
        except MissingSplitError:
            data = open_dataset(path, split="train", **shaped)
        rows = torch.randperm(len(data), generator=generator)[pick(len(data))]
        if each <= len(data):  # without repetition
            rows = torch.randperm(len(data), generator=generator)[:each]
        images = torch.stack([data[row][0] for row in rows.tolist()])
        shifts = zip(pick(height).tolist(), pick(width).tolist(), strict=True)
        rolled = [image.roll(shift, (1, 2)) for image, shift in zip(images, shifts, strict=True)]
        yield Path(path).name, images
        yield f"{Path(path).name}, inverted", 255 - images
        yield f"{Path(path).name}, rolled", torch.stack(rolled)
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    yield "noise", noise
    yield "random black and white", (noise > 127).to(torch.uint8) * 255
    level = pick(256).to(torch.uint8)
    level[:2] = torch.tensor([0, 255], dtype=torch.uint8)[: len(level)]
    yield "one level, black and white among them", level.view(-1, 1, 1, 1).expand(shape)
    single = torch.zeros(shape, dtype=torch.uint8)
    single[torch.arange(each), :, pick(height), pick(width)] = 255
    yield "a white pixel", single
    yield "a black pixel", 255 - single


@torch.no_grad()
def inexact(
    checkpoint: nfaug.Checkpoint, images: Tensor, generator: torch.Generator
) -> tuple[int, int, int, int, int]:
    """Number of images, of inexact round trips, their worst error, and the same of NFAugment."""
    wrong = worst = changed = far = 0
    ways = [(flow, b) for flow in (checkpoint.flow, checkpoint.flow.freeze()) for b in BATCHES]
    for (flow, batch), part in zip(ways, images.tensor_split(len(ways)), strict=True):
        nfa = nfaug.NFAugment(
            dataclasses.replace(checkpoint, flow=flow),
            p=1.0, noise=1e-9, strength=0.0, gate=None, generator=generator,
        )  # fmt: skip
        for given in part.split(batch) if len(part) else ():
            difference = (flow.decode(flow.encode(given)[0]).int() - given.int()).abs()
            wrong += int(difference.flatten(1).any(1).sum())
            worst = max(worst, int(difference.max()))
            new = nfa(given, torch.zeros(len(given), dtype=torch.int64))[0]
            changed += int((new != given).flatten(1).any(1).sum())
        far += nfa.stats()["far"]
    return len(images), wrong, worst, changed, far


if __name__ == "__main__":
    sys.exit(main() > 0)
