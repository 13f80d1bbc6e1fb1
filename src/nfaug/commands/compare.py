"""nfaug compare."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..compare import CompareConfig, compare
from ..data.images import LabelledImages
from ..data.open import DATA_SOURCES, MissingSplitError, open_dataset
from ..fitting import common_size
from .common import READING, add_image_size, add_reading, lies_in, new_parser

__all__ = ["parser", "run"]

_FLOWS = (
    "flows of NFA besides builtin:pixels; they need --test-data, images that they were not trained "
    "on: by images that a flow has seen, NFA would be judged too well"
)
_SMALL = 48  # the longest side of images by default, for small-cnn
_LARGE = 128  # and for a timm model


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareConfig`."""
    parser = new_parser(
        "compare",
        "Does an augmentation help on your images? Train classifiers with few labels, without and "
        "with NFA, RandAugment and TrivialAugment, and write a table, a plot, one sentence of "
        "advice and the lines to paste.",
        "Ctrl-C keeps what is done; the same command goes on.",
    )
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument(
        "--test-data",
        help="images to judge by, none of which are trained on: the test split, or all if there "
        "are no splits (default: a part of --data is held out)",
    )
    add_reading(parser)
    parser.add_argument(
        "--out",
        default="nfaug-compare",
        help="the folder to write: a new or empty one, or that of the same comparison, which goes "
        "on; it cannot lie in the data",
    )
    add_image_size(parser, f"their own, at most {_SMALL}, or {_LARGE} for a timm model")
    parser.add_argument("--checkpoint", nargs="*", default=[], help=_FLOWS)
    parser.add_class_arguments(CompareConfig, skip={"checkpoint"})
    return parser


def run(arguments: Namespace) -> dict[str, Any] | str:
    """Compare, and return the figures or the report."""
    for option in ("data", "test_data"):
        folder = arguments[option]
        if folder is not None and lies_in(arguments.out, folder):
            name = option.replace("_", "-")
            raise ValueError(
                f"--out {arguments.out} lies in --{name} {folder}, where its picture would be read "
                "as an image: choose a folder outside of the data"
            )
    values = {field.name: arguments[field.name] for field in fields(CompareConfig)}
    values["checkpoint"] = tuple(values["checkpoint"])
    config = CompareConfig(**values)
    reading = {name: arguments[name] for name in READING}
    size = arguments.image_size
    data = open_dataset(arguments.data, image_size=size or 1, **reading)
    if size is None:
        longest = _SMALL if config.network == "small-cnn" else _LARGE
        data = data.resized(_default_size(data, longest))
    test_data = _test_images(arguments, data, reading)
    comparison = compare(data, arguments.out, config=config, test_data=test_data)
    if not arguments.json:
        files = "table.md, cells.csv and, from two seeds on, gains.png"
        return f"{comparison.text()}\nIn {arguments.out}: {files}."
    return {
        "out": arguments.out,
        "advice": comparison.advice(),
        "seeds": len(comparison.seeds),
        "seconds": round(comparison.seconds, 1),
        "accuracy": {row.title: round(comparison.accuracy(row), 2) for row in comparison.rows},
        "gain": {row.title: str(comparison.gain(row)) for row in comparison.rows[1:]},
        "code": comparison.code().splitlines(),
    }


def _default_size(data: LabelledImages, longest: int) -> tuple[int, int]:
    """The size of the images, scaled down if a side is longer than `longest`."""
    height, width = common_size(data, longest)
    scale = min(1.0, longest / max(height, width))
    return max(8, round(height * scale)), max(8, round(width * scale))  # small-cnn needs 8


def _test_images(
    arguments: Namespace, data: LabelledImages, reading: dict[str, Any]
) -> LabelledImages | None:
    """The images of --test-data: their test split, or all if there are no splits."""
    if arguments.test_data is None:
        return None
    open_test_data = functools.partial(
        open_dataset,
        arguments.test_data,
        image_size=data.image_size,
        channels=data.channels,
        **reading,
    )
    try:
        return open_test_data(split="test")
    except MissingSplitError:
        return open_test_data()
