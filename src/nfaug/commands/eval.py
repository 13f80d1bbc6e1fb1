"""nfaug eval."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.numbers import share_interval
from .common import add_checkpoint, add_data_options, load_on, place, reading, without_gaussians
from .parser import Count, new_parser


def parser() -> ArgumentParser:
    """Options of `nfaug eval`."""
    parser = new_parser(
        "eval",
        "Measure a checkpoint on labelled images: bits per dimension, NF-Acc (the share of images "
        "whose own class Gaussian gives the highest likelihood, with its 95% interval, and the "
        "share where it is among the best five), and the share of images that come back bit for "
        "bit when encoded and decoded.",
        usage="--checkpoint CHECKPOINT --data DATA [options]",
        example="nfaug eval --checkpoint trained-nfa --data my-images",
    )
    add_checkpoint(parser)
    add_data_options(parser, "test")
    parser.add_argument("--batch-size", type=Count, default=256, help="images per batch")
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Measure the checkpoint."""
    from ..data.batches import in_memory
    from ..data.classes import check_same_classes
    from ..data.open import open_dataset
    from ..data.sources.layout import MissingSplitError
    from ..training.metrics import evaluate

    where = place(arguments.device)
    checkpoint = load_on(arguments, where.device)
    if checkpoint.gaussians is None:
        raise ValueError(without_gaussians(arguments.checkpoint))
    labelled = bool(checkpoint.config.classes)
    codec = checkpoint.flow.codec
    open_data = functools.partial(
        open_dataset,
        arguments.data,
        image_size=codec.image_size,
        channels=codec.channels,
        labels=labelled,
        **reading(arguments),
    )
    try:
        dataset = open_data(split=arguments.split or "test")
    except MissingSplitError:
        if arguments.split:
            raise
        dataset = open_data(split="train")  # a folder without splits counts as training images
        warnings.warn("the data have no test split; using train", stacklevel=1)
    if labelled:
        check_same_classes(dataset.classes, checkpoint.config.classes)
    where.say()
    found = evaluate(
        checkpoint.flow,
        checkpoint.gaussians,
        in_memory(dataset, progress=True),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        round_trip=True,
        progress=True,
    )
    figures: dict[str, Any] = {}
    for name, value in found.items():
        figures[name] = value
        if name == "nf_acc":
            interval = share_interval(value, found["images"])
            figures["nf_acc_interval"] = [round(end, 4) for end in interval]
    return figures
