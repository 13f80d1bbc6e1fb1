"""nfaug train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..checkpoint.manifest import PICTURE, RUN_SETTINGS
from ..data.kinds import DATA_SOURCES
from ..io.atomic import write_picture
from ..io.numbers import as_size
from ..io.text import public_name
from ..training.config import TrainConfig, config_of, recipe_path, recipes
from .common import READING, add_channels, add_image_size, add_reading, loading, place, saving
from .parser import Count, new_parser

if TYPE_CHECKING:
    from ..flows.flow import Flow

# What --help shows.
_USUAL = (
    *("data", "out", "image_size", "resume", "checkpoint", "recipe", "config"),
    *("per_class", "overwrite", "epochs", "max_minutes", "batch_size", "device"),
)
_READING = (*READING, "per_class")
EXIT_CODES = (
    "Exit codes: 3 training diverged; 4 stopped from outside, as by a full disk; 130 and 143 "
    "interrupted by Ctrl-C and SIGTERM. After 4, 130 and 143, --resume continues the run."
)


def expand(argv: Sequence[str]) -> list[str]:
    """Replace --recipe and --resume by the files and options that they stand for.

    A recipe's YAML file goes first, so that other options override it. --resume DIR reads the
    settings saved in DIR and sets --out DIR.

    Raises:
        ValueError: If there is no such recipe, no run in DIR, or --resume is combined with an
            option that it sets.
    """
    expanded: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        option, _, value = word.partition("=")
        if option == "--recipe":
            name = value or next(words, "")
            expanded += ["-c", str(recipe_path(name))]
        elif option == "--resume":
            folder = value or next(words, "")
            settings = Path(folder).expanduser() / RUN_SETTINGS
            if not folder or not settings.is_file():
                raise ValueError(
                    f"--resume needs the --out of a run; {folder!r} has no {RUN_SETTINGS}"
                )
            expanded += ["-c", str(settings), "--resume", folder, "--out", folder]
        else:
            rest.append(word)
    if "--resume" in expanded:
        options = {word.partition("=")[0] for word in rest}
        extra = sorted(options & {"--checkpoint", "--out", "--overwrite"})
        if extra:
            raise ValueError(f"--resume continues a run in its directory; leave out {extra}")
    return expanded + rest


def parser() -> ArgumentParser:
    """Options of `nfaug train`: data, output, and every field of `TrainConfig`."""
    parser = new_parser(
        "train",
        "Train a normalizing flow on your images, and fit it to your classes. The result is a "
        "checkpoint for NFAugment and the other commands. Most users need no flow of their own: "
        "see nfaug fit.",
        "A recipe or a YAML file can set any of these options; options after it override it. "
        "--print-config shows the settings. torchrun -m nfaug.training takes the same options.\n\n"
        f"{EXIT_CODES}",
        usage="--data DATA --out OUT [--recipe NAME] [-c FILE] [options]",
        example="nfaug train --data my-images --recipe small --out my-nfa",
    )
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument("--out", required=True, help="the checkpoint's folder to write")
    add_image_size(
        parser,
        "that of the images, or at most 128 if they differ; the same as --dataset.image-size",
    )
    add_channels(
        parser, "1 if all images are grayscale, otherwise 3; the same as --dataset.channels"
    )
    parser.add_argument(
        "--resume",
        help="continue the run in this folder with its settings; other options override them, but "
        "images, seed, batch size, device, flow and prior.kind must stay. A finished run trains "
        "on with more --epochs or --max-minutes, whichever ended it",
    )
    parser.add_argument(
        "--checkpoint",
        help="start from the flow of this checkpoint instead of a new one: a folder, or owner/name "
        "on the Hub",
    )
    parser.add_argument(
        "--recipe",
        help=f"settings that come with nfaug: {', '.join(recipes())}; small suits any folder of "
        "images",
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file of settings")
    parser.add_argument("--split", default="train", help="part of the data to train on")
    add_reading(parser)
    parser.add_argument(
        "--per-class",
        type=Count,
        help="train on at most this many random images of each class (default: all)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    parser.add_class_arguments(TrainConfig)
    parser.show_all_with("--help-all", _USUAL)
    return parser


def run(arguments: Namespace) -> dict[str, Any] | None:
    """Train, save and return the figures; None on all processes but the main one."""
    if arguments.recipe is not None:  # `expand` took it from the command line
        raise ValueError("a settings file cannot name a recipe; pass --recipe as an option")
    out = Path(arguments.out)
    config = _config(arguments)  # its errors need no torch

    from ..checkpoint.autoencoder import copy_autoencoder
    from ..checkpoint.checkpoint import load
    from ..data.open import open_dataset
    from ..pictures.preview import preview_grid
    from ..training.run import Run
    from ..training.trainer import train_run

    where = place(config.device)
    with Run.open(out, config, resume=arguments.resume is not None) as run:
        run.check_output(overwrite=arguments.overwrite)
        start = None
        source = {"data": public_name(arguments.data)}
        if arguments.checkpoint is not None:
            source["init"] = public_name(arguments.checkpoint)
            if not run.resumes:  # a run that goes on has a copy
                with loading(arguments.checkpoint):
                    start = load(
                        arguments.checkpoint, autoencoder=config.autoencoder, gaussians=False
                    )
                config = _shaped(config, start.flow)
        dataset = open_dataset(
            arguments.data,
            split=arguments.split,
            seed=config.seed,
            image_size=config.dataset.image_size,
            channels=config.dataset.channels,
            labels=config.prior.entry.labelled,
            **{name: arguments[name] for name in _READING},
        )
        where.say()
        result = train_run(
            run,
            dataset,
            config,
            checkpoint=start,
            words={name: arguments[name] for name in ("checkpoint", "data", "split", *_READING)},
            source=source,
        )
        if not run.ranks.main:
            return None
        checkpoint = result.checkpoint
        with run.stopped_from_outside():
            with saving(out):
                checkpoint.save(out, overwrite=True)
            if checkpoint.pca is not None:
                picture = preview_grid(checkpoint, dataset, progress=True)
                write_picture(out / PICTURE, picture)
            copy_autoencoder(
                checkpoint.config.autoencoder,
                out,
                given=config.autoencoder,
                base=arguments.checkpoint,
            )
    return {
        "out": str(out),
        "image_size": list(dataset.image_size),
        "channels": dataset.channels,
        **checkpoint.config.training,
        "held_out": checkpoint.config.metrics,
    }


def _shaped(config: TrainConfig, start: Flow) -> TrainConfig:
    """The settings with the size and the channels of a flow that is trained further.

    Raises:
        ValueError: They have another size.
    """
    if not list(start.parameters()):  # which is an error of its own
        return config
    data = config.dataset
    height, width = start.codec.image_size
    size = data.image_size or (height, width)
    if as_size(size) != (height, width):
        raise ValueError(
            f"the flow of --checkpoint has {height} x {width} pixels, and --image-size is {size} "
            f"(a recipe may set it): pass --image-size {height},{width}"
        )
    channels = data.channels or start.codec.channels
    return replace(config, dataset=replace(data, image_size=size, channels=channels))


def _config(arguments: Namespace) -> TrainConfig:
    """The settings of the run."""
    config = config_of(parser().instantiate(arguments))
    for name in ("image_size", "channels"):
        if arguments[name] is not None:
            dataset = replace(config.dataset, **{name: arguments[name]})
            config = replace(config, dataset=dataset)
    return config
