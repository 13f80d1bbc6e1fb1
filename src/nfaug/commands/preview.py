"""nfaug preview."""

from __future__ import annotations

import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..augment.config import MixConfig
from ..io.atomic import write_picture
from .common import (
    add_checkpoint,
    add_data_options,
    add_image_size,
    add_out,
    loading,
    mixing,
    picture_file,
    place,
    reading,
)
from .parser import Count, new_parser

# What --help shows.
_USUAL = (
    *("checkpoint", "device", "autoencoder", "data", "split", "download", "per_class", "seed"),
    *("mix", "image_size", "out", "overwrite", "variants", "max_classes"),
)


def parser() -> ArgumentParser:
    """Options of `nfaug preview`."""
    parser = new_parser(
        "preview",
        "Draw what NFA does to your images in training: a row per class with an image, its "
        "reconstruction (encoded and decoded) and its variants. An image that the gate stops stays "
        "unchanged. A checkpoint of other classes is first fitted to up to 100 images of each.",
        usage="--checkpoint CHECKPOINT --data DATA --out OUT.png [options]",
        example="nfaug preview --checkpoint builtin:pixels --data my-images --out variants.png",
    )
    add_checkpoint(parser)
    add_data_options(parser, "train")
    parser.add_class_arguments(MixConfig, skip={"p"})
    add_image_size(parser, "that of the images, at most 160; choose the size at which you train")
    add_out(parser, "the PNG file")
    parser.add_argument("--variants", type=Count, default=6, help="variants per image")
    parser.add_argument(
        "--max-classes", type=Count, default=10, help="the most classes that are shown"
    )
    parser.show_all_with("--help-all", _USUAL)
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Make the preview and save it."""
    from ..fitting.checkpoints import load_base, open_fitted
    from ..pictures.preview import preview_grid

    file = picture_file(arguments)
    config = mixing(arguments)
    where = place(arguments.device)
    with loading(arguments.checkpoint):
        base = load_base(arguments.checkpoint, arguments.autoencoder)
    base = base.to(where.device)
    checkpoint, dataset = open_fitted(
        base,
        arguments.data,
        image_size=arguments.image_size,
        autoencoder=arguments.autoencoder,
        split=arguments.split or "train",
        **reading(arguments),
    )
    if checkpoint is not base:
        warnings.warn(
            "the checkpoint does not have the classes of the data: it was fitted to up to 100 "
            "images of each, for this picture alone; nfaug fit keeps one",
            stacklevel=1,
        )
    where.say()
    picture = preview_grid(
        checkpoint,
        dataset,
        variants=arguments.variants,
        max_classes=arguments.max_classes,
        seed=arguments.seed,
        config=config,
        progress=True,
    )
    write_picture(file, picture)
    return {"out": str(file), "width": picture.width, "height": picture.height}
