"""nfaug preview."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..augment.preview import preview_grid
from .common import (
    add_data_options,
    add_flow,
    add_mixing,
    check_same_classes,
    load_on,
    mixing,
    new_parser,
    open_data,
    out_file,
)

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug preview`."""
    made = new_parser(
        "preview",
        "Draw what a flow does to your images: a row per class with an original, its "
        "reconstruction (encoded and decoded unchanged) and NFA variants.",
    )
    add_flow(made)
    add_data_options(made, "train")
    add_mixing(made, gate="a preview has no gate by default, unlike training")
    made.add_argument("--out", required=True, help="the PNG file to write")
    made.add_argument("--overwrite", action="store_true", help="replace --out")
    made.add_argument("--variants", type=int, default=6, help="variants per class")
    made.add_argument("--classes", type=int, default=10, help="classes that are shown at most")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Draw and save."""
    file = out_file(arguments.out, overwrite=arguments.overwrite)
    checkpoint = load_on(arguments)
    dataset = open_data(arguments, checkpoint)
    check_same_classes(checkpoint, dataset)
    picture = preview_grid(
        checkpoint,
        dataset,
        variants=arguments.variants,
        classes=arguments.classes,
        seed=arguments.seed,
        **mixing(arguments),
    )
    picture.save(file)
    return {"out": str(file), "width": picture.width, "height": picture.height}
