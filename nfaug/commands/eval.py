"""nfaug eval."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from ..data.batches import open_batches
from ..data.images import to_tensors
from ..flows.invertibility import measure
from .common import (
    add_data_options,
    add_flow,
    check_same_classes,
    load_on,
    new_parser,
    open_data,
)

__all__ = ["parser", "run"]

_SPLITS = ("test", "train")  # a folder without splits counts as training images


def parser() -> ArgumentParser:
    """Options of `nfaug eval`."""
    made = new_parser(
        "eval",
        "Measure a checkpoint on labelled images: bits per dimension, NF-Acc (share of images "
        "whose class has the highest latent likelihood, top 1 and top 5), and the share of images "
        "that encode and decode bit for bit.",
    )
    add_flow(made)
    add_data_options(made, "test")
    made.add_argument("--batch-size", type=int, default=256, help="images per batch")
    made.add_argument(
        "--invertibility",
        action="store_true",
        help="measure the inverse instead: exact round trips and error in grey levels, "
        "on these images, noise and extremes, and on mixed latents against float64",
    )
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Measure the checkpoint."""
    from ..training.evaluation.metrics import evaluate

    checkpoint = load_on(arguments)
    if arguments.invertibility:
        return measure(
            checkpoint.flow,
            to_tensors(open_data(arguments, checkpoint, _SPLITS))[0],
            batch_size=arguments.batch_size,
            generator=torch.Generator().manual_seed(arguments.seed),
        )
    if checkpoint.gaussians is None:
        raise ValueError(f"{arguments.flow} has no class gaussians; fit them with: nfaug fit")
    known = bool(checkpoint.config.class_names)
    dataset = open_data(arguments, checkpoint, _SPLITS, labels=known)
    check_same_classes(checkpoint, dataset)
    return evaluate(
        checkpoint.flow,
        checkpoint.gaussians,
        open_batches(dataset, progress=True),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        round_trip=True,
        progress=True,
    )
