"""nfaug compare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from ..compare.config import CompareConfig
from ..data.kinds import DATA_SOURCES
from .common import READING, add_channels, add_image_size, add_reading, place
from .parser import lies_in, new_parser

if TYPE_CHECKING:
    import torch

    from ..compare.report import Comparison
    from ..data.images import LabelledImages

_FLOWS = (
    "checkpoints to compare besides builtin:pixels; they need a test split or --test-data, images "
    "on which they were not trained: by images that a flow has seen, NFA would look too good"
)


def parser() -> ArgumentParser:
    """Options of `nfaug compare`: data, output, and every field of `CompareConfig`."""
    parser = new_parser(
        "compare",
        "What should I do with my few labelled images? Train classifiers on some of them, without "
        "and with NFA, RandAugment and MixUp, and test them on others; with --network and "
        "--weights, compare fine-tuning with features of the frozen network. Write a table, "
        "pictures, advice, and the settings that it names.",
        "Ctrl-C keeps what is done; the same command goes on.",
        usage="--data DATA [options]",
        example="nfaug compare --data my-images --per-class 10",
    )
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument(
        "--test-data",
        help="test images: the test split, or all if there are no splits (default: the test "
        "split of --data, or else a part that is held out)",
    )
    add_reading(parser)
    parser.add_argument(
        "--out",
        default="nfaug-compare",
        help="the folder to write: a new or empty one, or that of the same comparison, if it was "
        "interrupted; it cannot lie in the data",
    )
    add_image_size(
        parser,
        "their own, at most 48, or 96 for a timm model; that of the network with --weights, if "
        "three seeds of all rows fit into --minutes",
    )
    add_channels(parser, "1 if all images are grayscale, otherwise 3")
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
    tested = arguments.test_data
    if tested is not None and lies_in(arguments.out, tested):
        raise ValueError(
            f"--out {arguments.out} lies in --test-data {tested}, where its picture would be read "
            "as an image: choose a folder outside of the data"
        )
    values = {field.name: arguments[field.name] for field in fields(CompareConfig)}
    values["checkpoint"] = tuple(values["checkpoint"])
    config = CompareConfig(**values)  # its errors need no torch

    from ..compare.images import open_parts
    from ..compare.next_steps import example_command
    from ..compare.run import compare
    from ..compare.size import sized

    where = place(config.device)
    processes = _processes(arguments.processes, where.device)
    reading = {name: arguments[name] for name in (*READING, "channels")}
    size = arguments.image_size
    data, test_data = open_parts(arguments.data, arguments.test_data, image_size=size, **reading)
    if size is None:
        data = sized(data, config, arguments.out, processes)
        test_data = None if test_data is None else test_data.at(data.image_size)
    where.say()
    comparison = compare(
        data, arguments.out, config=config, test_data=test_data, processes=processes
    )
    config = comparison.config  # with the number of steps
    read = {"test_data": arguments.test_data, **reading}
    example = example_command(comparison.best(), config, arguments.data, read, data.image_size)
    if arguments.json:
        return {"out": arguments.out, **comparison.figures(), "example": example}
    lines = [comparison.text().rstrip()]
    if example:
        lines += ["", "An example that trains so, with the same test images:", "", example]
    lines += ["", *_timm(comparison, config, arguments.data, reading, data)]
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


def _timm(
    comparison: Comparison,
    config: CompareConfig,
    path: str,
    reading: Mapping[str, Any],
    data: LabelledImages,
) -> list[str]:
    """How timm's train.py trains as the advice says, or what it needs."""
    from ..compare.next_steps import TIMM_READS, timm_commands
    from ..data.open import open_dataset
    from ..data.sources.folders import FolderReader

    shape = (data.channels, *data.image_size)

    def commands(*splits: str) -> list[str]:
        best = comparison.best()
        return timm_commands(best, config, path, reading, splits, shape, len(data.classes))

    if not commands("folder", "train", "validation"):
        return []
    needed = "timm's train.py needs a folder that holds one of training and one of validation"
    reader = data.reader
    if not isinstance(reader, FolderReader):
        return [f"{needed}, as --data."]
    others = {Path(name).suffix.lower() for name in reader.paths} - TIMM_READS
    if others:
        return [f"timm's train.py does not read {', '.join(sorted(others))} files."]
    try:
        held = open_dataset(path, split="validation", **reading).reader
    except (ValueError, OSError) as error:  # such as a missing split: the report is not lost
        return [f"{needed}, as --data: {error}"]
    assert isinstance(held, FolderReader)
    if reader.root.parent != held.root.parent:
        return [f"{needed}, as --data."]
    found = commands(str(reader.root.parent), reader.root.name, held.root.name)
    return ["With timm's train.py:", "", *found]
