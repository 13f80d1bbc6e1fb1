"""Options that several commands share."""

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
    "load_on",
    "mixing",
    "new_parser",
    "open_data",
    "out_file",
    "refuse_class_mismatch",
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
    """--data and how it is read; `split` is what is read where the data have it."""
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--split", help=f"which part of the data: train or test ({split} if there is one)"
    )
    parser.add_argument("--data-dir", help="where a named data set is kept")
    parser.add_argument("--download", action="store_true", help="let a named data set be fetched")
    parser.add_argument("--per-class", type=int | None, help="use this many images of each class")
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="what to do with an image file that cannot be decoded",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")


def add_flow(parser: ArgumentParser) -> None:
    """--flow, --device and --autoencoder."""
    parser.add_argument(
        "--flow",
        required=True,
        help="a checkpoint directory, owner/name on the Hub, or builtin:NAME",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, ...; auto is the GPU where there is one"
    )
    parser.add_argument(
        "--autoencoder",
        help="for a flow on latents: its autoencoder's directory or owner/name, if it has moved",
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
    """The checkpoint of --flow on the device of --device."""
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
    """The data set of the options, read as the checkpoint's flow needs it, or at another size.

    Without --split it is the first of `splits` that the data have, with a warning if that is not
    the first one. Unless `labels`, a folder needs no class folders.
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
                warnings.warn(f"the data have no {first} split; this is {split}", stacklevel=2)
                return dataset
        raise


def refuse_class_mismatch(checkpoint: Checkpoint, dataset: Any) -> None:
    """Refuse data whose classes are not the checkpoint's, in the checkpoint's order.

    A flow without classes takes all data.

    Raises:
        ValueError: says how they differ.
    """
    if checkpoint.config.class_names:
        refuse_other_classes(dataset.classes, checkpoint.config.class_names)


def out_file(path: str, *, overwrite: bool) -> Path:
    """A PNG file to write, in a folder that is made.

    Raises:
        ValueError: it has another suffix.
        FileExistsError: it is there and `overwrite` is False, or it is a folder.
    """
    file = Path(path)
    if file.is_dir():
        raise FileExistsError(f"{file} is a folder; --out is the picture to write")
    if file.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png; got {path!r}")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists; pass --overwrite to replace it")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
