"""nfaug sample."""

from __future__ import annotations

import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.atomic import write_picture
from .common import add_checkpoint, add_out, load_on, picture_file, place, without_gaussians
from .parser import Count, Seed, new_parser

_BLURRED = 0.5  # NF-Acc below which samples are a blur


def parser() -> ArgumentParser:
    """Options of `nfaug sample`."""
    parser = new_parser(
        "sample",
        "Draw random images from the class Gaussians of a checkpoint through its flow: a row per "
        "class. NFA needs no samples: see nfaug preview for variants of your images.",
        usage="--checkpoint CHECKPOINT --out OUT.png [options]",
        example="nfaug sample --checkpoint builtin:fashion-mnist --out samples.png",
    )
    add_checkpoint(parser)
    add_out(parser, "the PNG file")
    parser.add_argument("--per-class", type=Count, default=8, help="images per class")
    parser.add_argument(
        "--max-classes", type=Count, default=20, help="the most classes that are shown"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="factor of the Gaussians' standard deviations; below 1 samples are more typical",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="seed of the samples")
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Sample the images and save them."""
    from ..pictures.preview import sample_grid

    file = picture_file(arguments)
    where = place(arguments.device)
    checkpoint = load_on(arguments, where.device)
    if checkpoint.gaussians is None:
        raise ValueError(without_gaussians(arguments.checkpoint))
    nf_acc = checkpoint.config.metrics.get("nf_acc")
    if isinstance(nf_acc, float) and nf_acc < _BLURRED:
        warnings.warn(
            "these samples show the colors of a class and no objects: the flow is small, and its "
            f"Gaussians tell few classes apart (NF-Acc {nf_acc:.0%}). "
            "NFA mixes images and needs no samples: look at nfaug preview",
            stacklevel=1,
        )
    names = list(checkpoint.config.classes)[: arguments.max_classes] or ["all"]
    where.say()
    picture = sample_grid(
        checkpoint.flow,
        checkpoint.gaussians,
        names,
        arguments.per_class,
        temperature=arguments.temperature,
        seed=arguments.seed,
        progress=True,
    )
    write_picture(file, picture)
    return {"out": str(file), "width": picture.width, "height": picture.height}
