"""What an augmentation gives, and costs, at its default strength, on many kinds of images.

    python benchmarks/untuned.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a small network is trained from scratch and, with --weights, a network is
fine-tuned, on --per-class labelled images of each class: with what is safe for the images alone,
and with one augmentation more, at the strength at which its users take it: NFA in pixels with
p = 0.5, torchvision's RandAugment(2, 9) and TrivialAugmentWide, CutMix and MixUp on every batch,
and SpecAugment on spectrograms. --data is a folder of tars. Seeds come last in the order, so that
an interruption leaves fewer seeds of everything; the same command goes on. --results gets a CSV
file of cells for each set and network, README.md with the tables, and untuned.png.
"""

import argparse
import functools
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.report.figures import Cell, Gain, gain_of
from nfaug.compare.rows import PIXELS
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text

FASHION = "/usr/share/datasets/fashion-mnist"  # Debian's dataset-fashion-mnist


@dataclass(frozen=True)
class Images:
    """A data set: tars of labelled images and of those to judge by, and what keeps its classes."""

    title: str
    train: str
    test: str
    safe: str
    size: int


SETS = {
    "cifar10": Images("CIFAR-10", "cifar10-train.tar", "cifar10-test.tar", "flip,crop", 32),
    "fashion": Images("Fashion-MNIST", FASHION, FASHION, "flip,crop", 28),
    "cells": Images("blood cells", "blood128-train.tar", "blood128-validation.tar", "rotate", 48),
    "clothes": Images(
        "clothes", "clothing128-train.tar", "clothing128-validation.tar", "flip,crop", 48
    ),
    "signs": Images("hand signs", "sign64-train.tar", "sign64-validation.tar", "crop", 48),
    "speech": Images("speech", "speech64-train.tar", "speech64-validation.tar", "spectrogram", 48),
    "letters": Images("letters", "letters64-train.tar", "letters64-validation.tar", "crop", 48),
    "steel": Images(
        "steel surfaces", "steel128-train.tar", "steel128-validation.tar", "rotate", 48
    ),
    "groceries": Images(
        "groceries", "grocery128-train.tar", "grocery128-validation.tar", "flip,crop", 48
    ),
}

NOTHING = "nothing more"
NFA = "NFA in pixels"
POLICIES = {
    "RandAugment": "randaugment",
    "TrivialAugment": "trivialaugment",
    "SpecAugment": "specaugment",
}
BATCHES: dict[str, Callable[[int], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "CutMix": lambda classes: v2.CutMix(num_classes=classes),
    "MixUp": lambda classes: v2.MixUp(num_classes=classes),
}
ROWS = (NOTHING, NFA, *POLICIES, *BATCHES)
NETWORKS = {"scratch": "from scratch", "finetuned": "fine-tuned"}
Found = Mapping[tuple[str, str], Cells]


def rows_of(name: str) -> list[str]:
    """The rows of a data set: on spectrograms SpecAugment takes the place of other policies."""
    spectrogram = SETS[name].safe == "spectrogram"
    rows = []
    for row in ROWS:
        if row not in POLICIES or spectrogram == (row == "SpecAugment"):
            rows.append(row)
    return rows


def config_of(args: argparse.Namespace, network: str) -> CompareConfig:
    """The settings of a network, with the length that `nfaug compare` has by default."""
    if network == "scratch":
        return CompareConfig(per_class=args.per_class, steps=args.steps or 800, device="cpu")
    return CompareConfig(
        per_class=args.per_class,
        steps=args.steps or 300,
        device="cpu",
        network=args.network,
        weights=str(args.weights),
    )


@functools.lru_cache(2)
def opened(folder: Path, name: str, size: int) -> tuple[LabelledImages, tuple[Tensor, Tensor]]:
    """The images that labelled ones are drawn from, and those to judge by."""
    images = SETS[name]
    parts = []
    test_split = "test" if images.test == images.train else "train"
    for data, split in ((images.train, "train"), (images.test, test_split)):
        place = folder / data  # an absolute path stays what it is
        parts.append(open_dataset(place, image_size=size, split=split))
    judged = parts[1]
    order = torch.randperm(len(judged), generator=torch.Generator().manual_seed(0))
    few = judged.subset(order[:2000].sort().values)
    return parts[0], to_tensors(few, progress=False)


def train(args: argparse.Namespace, name: str, network: str, row: str, seed: int) -> Cell:
    """The cell of a row: which images to judge by its classifier gets right."""
    torch.set_num_threads(1)
    started = time.monotonic()
    size = SETS[name].size if network == "scratch" else args.image_size
    pool, judged = opened(args.data, name, size)
    config = config_of(args, network)
    few, _ = split_per_class(pool, args.per_class, seed)
    images, labels = to_tensors(few, progress=False)
    shape = images.shape[1:]
    classes = len(few.classes)
    torch.manual_seed(seed)
    policy = POLICIES.get(row, "")
    transform = transform_of(SETS[name].safe.split(","), policy, (shape[1], shape[2]))
    mixed = BATCHES[row](classes) if row in BATCHES else None
    bank = bank_of(PIXELS, few, config, seed) if row == NFA else None

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(images, labels, bank, config.p, transform, rows)
        if mixed is None:
            return batch, targets
        return mixed(batch.float(), targets)  # a mean of bytes is none

    classifier = Classifier(config, shape, classes, seed)
    classifier.train(draw, len(labels))
    return Cell(classifier.right(*judged).numpy(), time.monotonic() - started)


def gain(cells: Cells, row: str, base: str = NOTHING) -> Gain:
    """The gain of a row over another one, in the seeds that both have."""
    ours = {seed for name, seed in cells if name == row}
    seeds = sorted(ours & {seed for name, seed in cells if name == base})
    return gain_of([cells[row, seed] for seed in seeds], [cells[base, seed] for seed in seeds])


def regrets(cells: Cells, rows: list[str]) -> dict[str, float]:
    """How far each row is below the best of a data set, in points; the best has 0."""
    means = {row: gain(cells, row).mean for row in rows}
    best = max(means.values())
    return {row: best - mean for row, mean in means.items()}


def tables(args: argparse.Namespace, found: Found) -> str:
    """Gains of each set, and their mean, worst and regret over all sets."""
    hours = sum(cells.seconds for cells in found.values()) / 3600
    lines = ["# Augmentations at their default strengths", ""]
    lines += [f"`python benchmarks/untuned.py {shlex.join(args.given)}`", ""]
    lines += [
        f"{args.per_class} labelled images per class; gains in points of accuracy over what is "
        f"safe for the images alone, with 95% intervals. {hours:.1f} hours of a core.",
        "",
        "![gains](untuned.png)",
        "",
    ]
    added = [row for row in ROWS if row != NOTHING]
    for network, title in NETWORKS.items():
        names = [name for name in args.sets if (name, network) in found]
        if not names:
            continue
        lines += [f"## {title.capitalize()}", ""]
        lines.append(f"| images | {NOTHING}, % | {' | '.join(added)} | seeds |")
        lines.append("|---" * (3 + len(added)) + "|")
        gains: dict[str, list[float]] = {row: [] for row in added}
        regret: dict[str, list[float]] = {row: [] for row in ROWS}
        for name in names:
            cells = found[name, network]
            rows = rows_of(name)
            shown = []
            for row in added:
                of_row = gain(cells, row) if row in rows else None
                shown.append("" if of_row is None else str(of_row))
                if of_row is not None:
                    gains[row].append(of_row.mean)
            for row, points in regrets(cells, rows).items():
                regret[row].append(points)
            plain = [cell.accuracy for (row, _), cell in cells.items() if row == NOTHING]
            number = min(gain(cells, row).number for row in rows[1:])
            lines.append(
                f"| {SETS[name].title} | {np.mean(plain):.1f} | {' | '.join(shown)} | {number} |"
            )
        for what, of in (("mean", np.mean), ("worst", min)):
            figures = [f"{of(gains[row]):+.1f}" if gains[row] else "" for row in added]
            lines.append(f"| **{what} gain** | | {' | '.join(figures)} | |")
        figures = [f"{np.mean(regret[row]):.1f}" if regret[row] else "" for row in ROWS]
        lines.append(f"| **mean regret** | {figures[0]} | {' | '.join(figures[1:])} | |")
        figures = [f"{max(regret[row]):.1f}" if regret[row] else "" for row in ROWS]
        lines.append(f"| **largest regret** | {figures[0]} | {' | '.join(figures[1:])} | |")
        lines.append("")
    lines.append(
        "The regret of a row is how far it is below the best row of a data set; in the column of "
        f'"{NOTHING}" it is that of adding nothing.'
    )
    return "\n".join(lines) + "\n"


def picture(args: argparse.Namespace, found: Found, file: Path) -> None:
    """A dot for each data set and augmentation, with its interval; a column for each network."""
    from matplotlib import pyplot

    networks = [network for network in NETWORKS if any(kind == network for _, kind in found)]
    figure, axes = pyplot.subplots(
        1, len(networks), figsize=(4.6 * len(networks), 5.2), sharey=True, squeeze=False
    )
    added = [row for row in ROWS if row != NOTHING]
    colours = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for network, axis in zip(networks, axes[0], strict=True):
        names = [name for name in args.sets if (name, network) in found]
        for place, row in enumerate(added):
            for number, name in enumerate(names):
                if row not in rows_of(name):
                    continue
                of_row = gain(found[name, network], row)
                height = place + 0.7 * (number / max(1, len(names) - 1) - 0.5)
                half = of_row.half if math.isfinite(of_row.half) else 0.0
                axis.errorbar(
                    of_row.mean,
                    height,
                    xerr=half,
                    fmt="o",
                    markersize=4,
                    linewidth=1,
                    color=colours[list(SETS).index(name) % 10],
                    label=SETS[name].title if place == 0 else None,
                )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(added)), added)
        axis.set_title(NETWORKS[network])
        axis.set_xlabel("gain, points of accuracy")
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def networks_of(args: argparse.Namespace) -> list[str]:
    """What is trained: fine-tuning needs weights."""
    return list(NETWORKS) if args.weights else ["scratch"]


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of images and networks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars")
    parser.add_argument("--weights", type=Path, help="pretrained weights, to be fine-tuned")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=64, help="pixels for fine-tuning")
    parser.add_argument("--processes", type=int, default=1)
    return parser


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="default: 800 from scratch, 300 fine-tuned")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/untuned"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/untuned"))
    args = parser.parse_args()
    args.given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    args.results.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], Cells] = {}
    for name in args.sets:
        for network in networks_of(args):
            size = SETS[name].size if network == "scratch" else args.image_size
            record = {"set": name, "network": network, "size": size, "per_class": args.per_class}
            record["steps"] = config_of(args, network).steps
            count = len(opened(args.data, name, size)[1][1])
            found[name, network] = Cells(args.out / f"{name}-{network}", record, count)
    with ProcessPoolExecutor(args.processes) as pool:
        for seed in range(args.seeds):
            jobs = {}
            for (name, network), cells in found.items():
                for row in rows_of(name):
                    if (row, seed) not in cells:
                        job = pool.submit(train, args, name, network, row, seed)
                        jobs[name, network, row] = job
            for (name, network, row), job in jobs.items():
                cell = job.result()
                found[name, network].add(row, seed, cell.right, cell.seconds)
                print(f"{name}, {network}, {row}, {seed}: {cell.accuracy:.1f}%", flush=True)
            for (name, network), cells in found.items():
                file = args.results / f"{name}-{network}.csv"
                write_text(file, cells.file.read_text(encoding="utf-8"))
            write_text(args.results / "README.md", tables(args, found))
            picture(args, found, args.results / "untuned.png")


if __name__ == "__main__":
    main()
