"""nfaug compare."""

from __future__ import annotations

import functools
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..compare import CompareConfig, compare
from ..data.images import LabelledImages
from ..data.open import DATA_SOURCES, MissingSplitError, open_dataset
from ..fitting import common_size
from ..io.device import pick_device
from .common import READING, add_image_size, add_reading, lies_in, new_parser

__all__ = ["parser", "run"]

_FLOWS = (
    "checkpoints to compare besides builtin:pixels; they need --test-data, images on which they "
    "were not trained: by images that a flow has seen, NFA would be judged too well"
)
_FILES = "table.md, cells.csv, gains.png and variants.png"
_SMALL = 48  # the longest side of images by default, for small-cnn
_LARGE = 96  # and for a timm model


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareConfig`."""
    parser = new_parser(
        "compare",
        "What should I do with my few labelled images? Train classifiers on some of them, without "
        "and with NFA, RandAugment and TrivialAugment, and judge them by the others; with "
        "--network and --weights, first logistic regression on the features of the frozen network. "
        "Write a table, pictures, a sentence of advice, and a script that trains as it says.",
        "Ctrl-C keeps what is done; the same command continues it.",
        usage="--data DATA [options]",
        example="nfaug compare --data my-images --per-class 10",
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
        help="the folder to write: a new or empty one, or that of the same comparison, which is "
        "continued; it cannot lie in the data",
    )
    add_image_size(parser, f"their own, at most {_SMALL}, or {_LARGE} for a timm model")
    parser.add_argument("--checkpoint", nargs="*", default=[], help=_FLOWS)
    parser.add_class_arguments(CompareConfig, skip={"checkpoint"})
    parser.add_argument(
        "--processes",
        type=int,
        default=0,
        help="how many classifiers are trained at once, with one thread each; 0 for one on each "
        "core, or one if there is a GPU",
    )
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
    comparison = compare(
        data,
        arguments.out,
        config=config,
        test_data=_test_images(arguments, data, reading),
        names=(arguments.data, arguments.test_data),
        processes=arguments.processes or _processes(config.device),
    )
    if not arguments.json:
        script = Path(arguments.out) / "train.py"
        lines = [comparison.text(), f"{script} trains as the advice says: python {script}"]
        if comparison.timm:
            lines += ["With timm's train.py:", "", *comparison.timm]
        return "\n".join([*lines, "", f"In {arguments.out}: {_FILES}."])
    rows = comparison.rows
    return {
        "out": arguments.out,
        "advice": comparison.advice(),
        "seeds": {comparison.title(row): len(comparison.seeds_of(row)) for row in rows},
        "seconds": round(comparison.seconds, 1),
        "accuracy": {comparison.title(row): round(comparison.accuracy(row), 2) for row in rows},
        "gain": {comparison.title(row): str(comparison.gain(row)) for row in rows[1:]},
        "notes": comparison.notes(),
        "script": comparison.script.splitlines(),
        "timm": comparison.timm,
    }


def _processes(device: str) -> int:
    """One process a core that this one may use, or one with a GPU."""
    if pick_device(device).type != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
