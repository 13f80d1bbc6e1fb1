"""nfaug eval."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..batches import open_batches
from .common import (
    add_data_options,
    add_flow,
    load_on,
    new_parser,
    open_data,
    refuse_class_mismatch,
)

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug eval`."""
    made = new_parser(
        "eval",
        "Measure a checkpoint on labelled images: bits per dimension, NF-Acc (the share of images "
        "whose class has the highest latent likelihood; top 1 and top 5) and the share of images "
        "that come back bit for bit.",
    )
    add_flow(made)
    add_data_options(made, "test")
    made.add_argument("--batch-size", type=int, default=256, help="images at a time")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Measure."""
    from ..training.metrics import evaluate

    checkpoint = load_on(arguments)
    if checkpoint.gaussians is None:
        raise ValueError(f"{arguments.flow} has no class gaussians; fit them with: nfaug fit")
    dataset = open_data(arguments, checkpoint)
    refuse_class_mismatch(checkpoint, dataset)
    return evaluate(
        checkpoint.flow,
        checkpoint.gaussians,
        open_batches(dataset, progress=True),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        round_trip=True,
        progress=True,
    )
