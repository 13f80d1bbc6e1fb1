"""nfaug compare."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from ..compare.config import GONE, CompareConfig
from ..data.kinds import DATA_SOURCES
from .common import READING, add_channels, add_image_size, add_reading, place
from .parser import lies_in, new_parser

if TYPE_CHECKING:
    import torch

_FLOWS = (
    "checkpoints to compare besides builtin:pixels. They need a test split or --test-data: test "
    "images that the flow was not trained on; otherwise NFA looks better than it is"
)
# What --help shows.
_USUAL = (
    *("data", "test_data", "out", "checkpoint", "per_class", "network", "weights", "augment"),
    *("methods", "seeds"),
)


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareConfig`."""
    parser = new_parser(
        "compare",
        "What should I do with my few labelled images? Train classifiers on some of them, without "
        "and with NFA, RandAugment and MixUp, and test them on others. With --network and "
        "--weights, compare fine-tuning and frozen features, too. Write advice, a table, a picture "
        "and settings to paste.",
        "Ctrl-C keeps what is done. The same command goes on, also with more --seeds.",
        usage="--data DATA [options]",
        example="nfaug compare --data my-images --per-class 10",
    )
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument(
        "--test-data",
        help="test images: their test split, or all (default: the test split of --data, or a part "
        "that is held out)",
    )
    add_reading(parser)
    parser.add_argument(
        "--out",
        default="nfaug-compare",
        help="the folder to write, outside of the data: a new or empty one, or that of the same "
        "comparison",
    )
    add_image_size(parser, "their own, at most 48, or 96 for a timm model")
    add_channels(parser, "1 if all images are grayscale, otherwise 3")
    parser.add_argument("--checkpoint", nargs="*", default=[], help=_FLOWS)
    parser.add_class_arguments(CompareConfig, skip={"checkpoint"})
    parser.add_argument("--rows", dest="methods", default="", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", action=_NoClock, help=argparse.SUPPRESS)
    parser.add_argument(
        "--processes",
        type=int,
        default=0,
        help="how many classifiers are trained at once, with one thread each; 0 for one on each "
        "core, or one if there is a GPU",
    )
    parser.show_all_with("--help-all", _USUAL)
    return parser


class _NoClock(argparse.Action):
    """Says what took the place of --minutes."""

    def __call__(self, parser: Any, *_: Any) -> None:
        parser.error(GONE["minutes"])


def run(arguments: Namespace) -> dict[str, Any] | str:
    """Compare, and return the figures or the report."""
    tested = arguments.test_data
    if tested is not None and lies_in(arguments.out, tested):
        raise ValueError(
            f"--out {arguments.out} lies in --test-data {tested}, where its picture would be read "
            "as an image: choose a folder outside of the data"
        )
    values = {field.name: arguments[field.name] for field in fields(CompareConfig)}
    values["checkpoint"] = tuple(values["checkpoint"])
    config = CompareConfig(**values)  # its errors need no torch

    from ..compare.images import at_most, open_parts
    from ..compare.next_steps import command_at, example_command
    from ..compare.report import frozen_side
    from ..compare.run import compare

    where = place(config.device)
    processes = _processes(arguments.processes, where.device)
    reading = {name: arguments[name] for name in (*READING, "channels")}
    size = arguments.image_size
    data, test_data = open_parts(arguments.data, arguments.test_data, image_size=size, **reading)
    if size is None:
        data = at_most(data, config)
        test_data = None if test_data is None else test_data.at(data.image_size)
    where.say()
    comparison = compare(
        data, arguments.out, config=config, test_data=test_data, processes=processes
    )
    config = comparison.config  # with the number of steps
    read = {"test_data": arguments.test_data, **reading}
    example = example_command(comparison.best(), config, arguments.data, read, data.image_size)
    side = frozen_side(config, (data.channels, *data.image_size))
    one_size = ""
    if side is not None:
        one_size = command_at(side, config, arguments.data, read)
    if arguments.json:
        figures = {"out": arguments.out, **comparison.figures(), "example": example}
        return figures | ({"one_size": one_size} if one_size else {})
    lines = [comparison.text().rstrip()]
    if one_size:
        lines += ["", "The same comparison at one size:", "", one_size]
    if example:
        said = "This command trains without and with it, and tests on the same images:"
        lines += ["", said, "", example]
    return "\n".join([*lines, "", f"All results are in {arguments.out}."])


def _processes(wanted: int, device: torch.device) -> int:
    """As many as wanted; with 0 one a core that this process may use, or one with a GPU."""
    if wanted < 0 or wanted > 1024:
        raise ValueError(f"--processes must be from 0 to 1024; got {wanted}")
    if wanted:
        return wanted
    if device.type != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return min(61, os.cpu_count() or 1)  # Windows waits for no more
