"""nfaug preview."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..augment.preview import preview_grid
from ..io.atomic import write_picture
from .common import (
    add_data_options,
    add_flow,
    add_image_size,
    add_mixing,
    add_out,
    check_same_classes,
    load_on,
    mixing,
    new_parser,
    open_data,
    picture_file,
)

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug preview`."""
    made = new_parser(
        "preview",
        "Show what NFA does to your images in training: a row per class with an image, its "
        "reconstruction (encoded and decoded) and NFA variants. A variant that the gate rejects "
        "is the image itself.",
    )
    add_flow(made)
    add_data_options(made, "train")
    add_mixing(made)
    add_image_size(made, "the flow's size; choose the size at which you train")
    add_out(made, "the PNG file")
    made.add_argument("--variants", type=int, default=6, help="number of variants")
    made.add_argument("--classes", type=int, default=10, help="largest number of classes to show")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Make the preview and save it."""
    file = picture_file(arguments)
    checkpoint = load_on(arguments)
    dataset = open_data(arguments, checkpoint, image_size=arguments.image_size)
    check_same_classes(checkpoint, dataset)
    picture = preview_grid(
        checkpoint,
        dataset,
        variants=arguments.variants,
        classes=arguments.classes,
        seed=arguments.seed,
        settings=mixing(arguments),
    )
    write_picture(file, picture)
    return {"out": str(file), "width": picture.width, "height": picture.height}
