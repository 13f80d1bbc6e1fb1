"""nfaug compare."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..compare import CompareSettings, compare
from ..data.images import LabelledImages
from ..data.open import DATA_SOURCES, MissingSplitError, open_dataset
from ..fitting import common_size
from .common import READING, add_image_size, add_reading, lies_in, new_parser

__all__ = ["parser", "run"]

_FLOWS = (
    "flows of NFA besides builtin:pixels; they need --test-data, images that they were not trained "
    "on: by images that a flow has seen, NFA would be judged too well"
)
_SMALL, _LARGE = 48, 128  # default side of the images: small-cnn, a timm model


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareSettings`."""
    made = new_parser(
        "compare",
        "Does an augmentation help on your images? Train classifiers with few labels, without and "
        "with NFA, RandAugment and TrivialAugment, and write a table, a plot, one sentence of "
        "advice and the lines to paste.",
        "Ctrl-C keeps what is done; the same command goes on.",
    )
    made.add_argument("--data", required=True, help=DATA_SOURCES)
    made.add_argument(
        "--test-data",
        help="images to judge by, none of which are trained on: the test split, or all if there "
        "are no splits (default: a part of --data is held out)",
    )
    add_reading(made)
    made.add_argument(
        "--out",
        default="nfaug-compare",
        help="the folder to write: a new or empty one, or that of the same comparison, which goes "
        "on; it cannot lie in the data",
    )
    add_image_size(made, f"their own, at most {_SMALL}, or {_LARGE} for a timm model")
    made.add_argument("--flow", nargs="*", default=[], help=_FLOWS)
    made.add_class_arguments(CompareSettings, skip={"flow"})
    return made


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
    given = {field.name: arguments[field.name] for field in fields(CompareSettings)}
    settings = CompareSettings(**{**given, "flow": tuple(given["flow"])})
    most = _SMALL if settings.network == "small-cnn" else _LARGE
    size = arguments.image_size
    reading = {name: arguments[name] for name in READING}
    data = open_dataset(arguments.data, image_size=size or 1, **reading)
    if size is None:
        own = common_size(data, most)
        scale = min(1.0, most / max(own))
        height, width = (max(8, round(side * scale)) for side in own)  # small-cnn needs 8
        data = data.resized((height, width))
    found = compare(data, settings, out=arguments.out, test=_test_images(arguments, data, reading))
    if not arguments.json:
        files = "table.md, cells.csv and, from two seeds on, gains.png"
        return f"{found.text()}\nIn {arguments.out}: {files}."
    return {
        "out": arguments.out,
        "advice": found.advice(),
        "seeds": len(found.seeds),
        "seconds": round(found.seconds, 1),
        "accuracy": {row.title: round(found.accuracy(row), 2) for row in found.rows},
        "gain": {row.title: str(found.gain(row)) for row in found.rows[1:]},
        "code": found.code().splitlines(),
    }


def _test_images(
    arguments: Namespace, data: LabelledImages, reading: dict[str, Any]
) -> LabelledImages | None:
    """The images of --test-data: their test split, or all if there are no splits."""
    if arguments.test_data is None:
        return None
    opened = functools.partial(
        open_dataset,
        arguments.test_data,
        image_size=data.image_size,
        channels=data.channels,
        **reading,
    )
    try:
        return opened(split="test")
    except MissingSplitError:
        return opened()
