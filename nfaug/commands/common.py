"""Options and helpers that several commands share."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.checkpoint import Checkpoint, load
from ..data.classes import refuse_other_classes
from ..io.device import pick_device
from .parser import CommandParser

__all__ = [
    "DATA_HELP",
    "add_data_options",
    "add_flow",
    "add_mixing",
    "check_same_classes",
    "load_on",
    "mixing",
    "new_parser",
    "open_data",
    "out_file",
]

DATA_HELP = (
    "a folder with one sub-folder of images per class (any folder of images for a flow without "
    "classes), a tar of one, a folder of IDX files "
    "(MNIST's format), a timm data-set name such as torch/cifar10, or 'digits'"
)


def new_parser(command: str, description: str, epilog: str | None = None) -> ArgumentParser:
    """Create the parser of a command, with --json."""
    parser = CommandParser(prog=f"nfaug {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def add_data_options(parser: ArgumentParser, split: str) -> None:
    """Add --data and the options of how it is read; `split` is the preferred split."""
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--split", help=f"part of the data: train or test (default: {split} if it exists)"
    )
    parser.add_argument("--data-dir", help="where a named data set is stored")
    parser.add_argument(
        "--download", action="store_true", help="allow a named data set to be downloaded"
    )
    parser.add_argument("--per-class", type=int | None, help="use this many images of each class")
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="stop at an image file that cannot be decoded, or skip it",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")


def add_flow(parser: ArgumentParser) -> None:
    """Add --flow, --device and --autoencoder."""
    parser.add_argument(
        "--flow",
        required=True,
        help="a checkpoint directory, owner/name on the Hub, or builtin:NAME",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, ...; auto is the GPU if there is one"
    )
    parser.add_argument(
        "--autoencoder",
        help="for a flow on latents: directory or owner/name of its autoencoder, if it moved",
    )


def add_mixing(parser: ArgumentParser, prefix: str = "", *, gate: str = "1.25") -> None:
    """What `NFAugment` does to an image; without an option its own default holds.

    `gate` is what the help calls the default of the gate, for a command that has another.
    """
    parser.add_argument(
        f"--{prefix}alpha", type=float | None, help="of Beta(alpha, alpha), the mixing weights"
    )
    parser.add_argument(
        f"--{prefix}mix",
        type=Literal["axis", "pair"] | None,
        help="a weight for each axis or for each pair of images",
    )
    parser.add_argument(
        f"--{prefix}partners",
        type=Literal["auto", "batch", "memory", "both"] | None,
        help="mix with images of the batch, of the flow's memory, of both, or of the memory where "
        "there is one (auto)",
    )
    parser.add_argument(
        f"--{prefix}strength", type=float | None, help="of mixing; 0 for noise alone"
    )
    parser.add_argument(
        f"--{prefix}noise",
        type=float | None,
        help="standard deviation of gaussian noise in the latent space",
    )
    parser.add_argument(
        f"--{prefix}axes", type=int | None, help="mix along so many leading axes only (all)"
    )
    parser.add_argument(
        f"--{prefix}gate",
        type=float | Literal["off"] | None,
        help="radius beyond which images are left alone, relative to the fitted one, or off "
        f"({gate})",
    )
    parser.add_argument(
        f"--{prefix}keep",
        type=Literal["all", "consistent"] | None,
        help="consistent: only variants that the flow takes for their class",
    )


def mixing(arguments: Namespace, prefix: str = "") -> dict[str, Any]:
    """The options of `add_mixing` that were given, as settings of `NFAugment`."""
    names = ("alpha", "mix", "partners", "strength", "noise", "axes", "gate", "keep")
    given = {name: arguments[f"{prefix}{name}"] for name in names}
    if given["gate"] == "off":
        given["gate"] = False
    return {name: value for name, value in given.items() if value is not None}


def load_on(arguments: Namespace) -> Checkpoint:
    """Load the checkpoint --flow onto --device."""
    checkpoint = load(arguments.flow, autoencoder=arguments.autoencoder)
    return checkpoint.to(pick_device(arguments.device))


def open_data(
    arguments: Namespace,
    checkpoint: Checkpoint,
    splits: Sequence[str] = ("train",),
    *,
    labels: bool = True,
    image_size: int | None = None,
) -> Any:
    """Open the data set of --data, read as the checkpoint's flow needs it.

    Args:
        arguments: The parsed options.
        checkpoint: Decides the channels and the image size.
        splits: Without --split, the first of these that exists is read; a warning says if it is not
            `splits[0]`.
        labels: Whether a folder needs class sub-folders.
        image_size: Read at this size instead of the flow's.
    """
    from ..data.open import MissingSplitError, open_dataset

    def opened(split: str) -> Any:
        return open_dataset(
            arguments.data,
            split=split,
            data_dir=arguments.data_dir,
            image_size=image_size or checkpoint.flow.codec.image_size,
            channels=checkpoint.flow.codec.channels,
            per_class=arguments.per_class,
            on_error=arguments.on_error,
            seed=arguments.seed,
            download=arguments.download,
            labels=labels,
        )

    first, *others = [arguments.split] if arguments.split else splits
    try:
        return opened(first)
    except MissingSplitError:
        for split in others:
            with contextlib.suppress(MissingSplitError):
                dataset = opened(split)
                warnings.warn(f"the data have no {first} split; using {split}", stacklevel=2)
                return dataset
        raise


def check_same_classes(checkpoint: Checkpoint, dataset: Any) -> None:
    """Check that the data have the checkpoint's classes in the same order.

    A checkpoint without classes accepts any data.

    Raises:
        ValueError: If the classes differ; the message says how.
    """
    if checkpoint.config.class_names:
        refuse_other_classes(dataset.classes, checkpoint.config.class_names)


def out_file(path: str, *, overwrite: bool) -> Path:
    """Check the path of a PNG file to write, and create its folder.

    Raises:
        ValueError: If it does not end in .png.
        FileExistsError: If it is a folder, or exists and `overwrite` is False.
    """
    file = Path(path)
    if file.is_dir():
        raise FileExistsError(f"{file} is a folder; --out must name a file")
    if file.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png; got {path!r}")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists; pass --overwrite to replace it")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
