"""nfaug compare."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..data.open import open_dataset
from ..training.compare import CompareSettings, compare
from .common import add_data_options, new_parser

__all__ = ["parser", "run"]

_MOST_PIXELS = {True: 64, False: 128}  # default side of the images: small-cnn, a timm model


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareSettings`."""
    made = new_parser(
        "compare",
        "Does an augmentation help on your images? Train classifiers with few labels, without and "
        "with NFA, RandAugment and TrivialAugment, and write a table, a plot, one sentence of "
        "advice and the lines to paste.",
        "Ctrl-C keeps what is done; the same command goes on.",
    )
    add_data_options(made, "train")
    made.add_argument("--test-data", help="images to judge by (default: a part is held out)")
    made.add_argument("--out", default="nfaug-compare", help="the folder to write")
    made.add_class_arguments(CompareSettings, skip={"per_class"})
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Compare, print the report and return its figures."""
    names = [field.name for field in fields(CompareSettings)]
    settings = CompareSettings(**{name: arguments[name] for name in names})
    size = settings.image_size
    if size is None:
        own = _open(arguments, arguments.data, None)
        most = _MOST_PIXELS[settings.network == "small-cnn"]
        size = own.image_size if max(own.image_size) <= most else (most, most)
    data = _open(arguments, arguments.data, size)
    test = arguments.test_data and _open(arguments, arguments.test_data, size)
    found = compare(data, settings, out=arguments.out, test=test)
    return {
        "out": str(Path(arguments.out)),
        "advice": found.advice(),
        "seeds": len(found.seeds),
        "seconds": round(found.seconds, 1),
        "accuracy": {row.title: round(row.accuracy, 2) for row in found.rows},
        "gain": {row.title: str(row.gain) for row in found.rows[1:]},
        "code": found.code().splitlines(),
    }
