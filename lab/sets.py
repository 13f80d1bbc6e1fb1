"""What the studies over many datasets share: files, settings, and cells that are kept.

`train_all` trains the classifiers of a study in several processes. Seeds come last in the order, so
that an interruption leaves fewer seeds of everything, and the same command goes on. --out keeps the
cells, and --results gets a CSV file of each study, which `python lab/tables.py` reads.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.figures import Cell, Gain, gain_of
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import draw_batch
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text

NOTHING = "nothing more"
NFA = "NFA in pixels"
NETWORKS = ("scratch", "finetuned")
Study = TypeVar("Study")
Change = Callable[[Tensor], Tensor]  # of a batch of images


@dataclass(frozen=True)
class ImageSet:
    """A dataset: files of labelled images and of test images, and what keeps its classes."""

    title: str
    train: str
    test: str
    safe: str
    size: int  # pixels for a network from scratch


SETS = {
    "cifar10": ImageSet("CIFAR-10", "cifar10-train.tar", "cifar10-test.tar", "flip,crop", 32),
    "fashion": ImageSet(  # python lab/data.py fashion
        "Fashion-MNIST", "fashion-mnist-train.npz", "fashion-mnist-test.npz", "flip,crop", 28
    ),
    "cells": ImageSet("blood cells", "blood128-train.tar", "blood128-validation.tar", "rotate", 48),
    "clothes": ImageSet(
        "clothes", "clothing128-train.tar", "clothing128-validation.tar", "flip,crop", 48
    ),
    "signs": ImageSet("hand signs", "sign64-train.tar", "sign64-validation.tar", "crop", 48),
    "speech": ImageSet(
        "speech", "speech64-train.tar", "speech64-validation.tar", "spectrogram", 48
    ),
    "letters": ImageSet("letters", "letters64-train.tar", "letters64-validation.tar", "crop", 48),
    "steel": ImageSet(
        "steel surfaces", "steel128-train.tar", "steel128-validation.tar", "rotate", 48
    ),
    "groceries": ImageSet(
        "groceries", "grocery128-train.tar", "grocery128-validation.tar", "flip,crop", 48
    ),
}


def new_parser(description: str, study: str) -> argparse.ArgumentParser:
    """A parser with the options that all studies of `SETS` have."""
    parser = parser_of_any(description, study, "a folder of tars and .npz files")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    return parser


def parser_of_any(description: str, study: str, data: str) -> argparse.ArgumentParser:
    """A parser with the options that do not depend on `SETS`; `data` says what --data is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--weights", type=Path, help="pretrained weights, to be fine-tuned")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=64, help="pixels for fine-tuning")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs") / study)
    parser.add_argument("--results", type=Path, default=Path("lab/results") / study)
    return parser


def networks_of(args: argparse.Namespace) -> list[str]:
    """What is trained: fine-tuning needs weights."""
    return list(NETWORKS) if args.weights else ["scratch"]


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


def size_of(args: argparse.Namespace, name: str, network: str) -> int:
    """Pixels of the images of a data set, for a network."""
    return SETS[name].size if network == "scratch" else args.image_size


def parts_of(folder: Path, name: str, size: int) -> tuple[Images, Images]:
    """The images that labelled ones are drawn from, and the test images."""
    images = SETS[name]
    pool = open_dataset(folder / images.train, image_size=size)
    return pool, open_dataset(folder / images.test, image_size=size)


@functools.lru_cache(2)
def opened(folder: Path, name: str, size: int) -> tuple[Images, tuple[Tensor, Tensor]]:
    """The images that labelled ones are drawn from, and up to 2,000 of the test images."""
    pool, test = parts_of(folder, name, size)
    test = tested(test)
    return pool, (decode(test, progress=False), test.targets)


def tested(test: Images) -> Images:
    """The test images, or 2,000 of them, in their order."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    return test.subset(order[:2000].sort().values)


def cells_of(
    args: argparse.Namespace, name: str, network: str, folder: Path, size: int, **more: Any
) -> Cells:
    """The cells of a data set and a network; `more` is what else they depend on."""
    config = config_of(args, network)
    count = len(opened(args.data, name, size)[1][1])
    record = {
        "set": name,
        "network": network,
        "model": config.network,
        "weights": args.weights.name if network == "finetuned" else None,
        "size": size,
        "per_class": config.per_class,
        "steps": config.steps,
        "lr": config.learning_rate,
        "p": config.p,
        "variants": config.variants,
        "test": count,
        **more,
    }
    return Cells(folder, record, count)


def keep_as_it_is(images: Tensor) -> Tensor:
    """No change of a batch."""
    return images


def trained(
    config: CompareConfig,
    safe: str,
    few: Images,
    bank: Tensor | None,
    seed: int,
    *,
    policy: Change = keep_as_it_is,
    mixed: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Classifier:
    """A classifier of labelled images, with variants from `bank` with probability config.p.

    Args:
        config: How it is trained.
        safe: What keeps the class of the images, as `nfaug compare` has it.
        few: The labelled images.
        bank: Variants (N, V, C, H, W) of them, or None.
        seed: Of the weights and of all draws.
        policy: What changes a batch of images before what keeps their class.
        mixed: What mixes a batch and its labels at the end.
    """
    images = decode(few, progress=False)
    labels = few.targets
    height, width = few.image_size
    torch.manual_seed(seed)
    safely = transform_of(safe.split(","), "", (height, width))

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(
            images, labels, bank, config.p, lambda drawn: safely(policy(drawn)), rows
        )
        if mixed is None:
            return batch, targets
        return mixed(batch.float(), targets)  # a mean of bytes is none

    classifier = Classifier(config, images.shape[1:], len(few.classes), seed)
    classifier.train(draw, len(labels))
    return classifier


def train_all(
    args: argparse.Namespace,
    found: Mapping[Study, Cells],
    groups_of: Callable[[Study], Iterable[Sequence[str]]],
    train: Callable[[argparse.Namespace, Study, Sequence[str], int], dict[str, Cell]],
    first_seed: int = 0,
) -> None:
    """Train what is missing of all studies, and keep the rows in --results after each seed.

    Args:
        args: `seeds`, their number, `processes`, `results`, and what `train` needs.
        found: The cells of each study.
        groups_of: Rows that are trained together by one process.
        train: (args, study, methods, seed) -> the cell of each method.
        first_seed: The first of the seeds.
    """
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}  # seconds of a core
    with ProcessPoolExecutor(args.processes, **one_thread) as pool:
        for seed in range(first_seed, first_seed + args.seeds):
            jobs = []
            for study, cells in found.items():
                for group in groups_of(study):
                    methods = [method for method in group if (method, seed) not in cells]
                    if methods:
                        jobs.append((study, pool.submit(train, args, study, methods, seed)))
            for study, job in jobs:
                for method, cell in job.result().items():
                    if (method, seed) not in found[study]:
                        found[study].add(method, seed, cell.right, cell.seconds)
                        print(f"{study}, {method}, {seed}: {cell.accuracy:.1f}%", flush=True)
            keep(args.results, found)


def keep(results: Path, found: Mapping[Any, Cells]) -> None:
    """Write the rows of each study to a CSV file of its name."""
    results.mkdir(parents=True, exist_ok=True)
    for study, cells in found.items():
        name = study if isinstance(study, str) else "-".join(map(str, study))
        if cells:
            write_text(results / f"{name}.csv", cells.file.read_text(encoding="utf-8"))


def gain(cells: Cells, method: str, base: str = NOTHING) -> Gain:
    """The gain of a method over another one, in the seeds that both have."""
    ours = {seed for name, seed in cells if name == method}
    seeds = sorted(ours & {seed for name, seed in cells if name == base})
    return gain_of([cells[method, seed] for seed in seeds], [cells[base, seed] for seed in seeds])


def mean_of(cells: Cells, method: str) -> float:
    """The mean accuracy of a method over its seeds, in per cent."""
    return float(np.mean([cell.accuracy for (name, _), cell in cells.items() if name == method]))


def gains_table(title: str, cells: Cells, methods: Sequence[str], *bases: str) -> list[str]:
    """A table of the accuracy of methods, and their gains over each of the bases."""
    above = " | ".join(f"above {base}" for base in bases)
    lines = [f"| {title} | accuracy, % | {above} |", "|---" * (2 + len(bases)) + "|"]
    for method in methods:
        if any(name == method for name, _ in cells):
            gains = " | ".join(str(gain(cells, method, base)) for base in bases)
            lines.append(f"| {method} | {mean_of(cells, method):.1f} | {gains} |")
    return lines
