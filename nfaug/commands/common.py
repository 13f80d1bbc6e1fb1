"""Options and helpers that several commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from ..augment.settings import MixSettings
from ..checkpoint.checkpoint import Checkpoint, load
from ..data.checks import check_class_names
from ..data.decode import MAX_PIXELS
from ..io.device import pick_device
from ..io.lock import lock_output
from .parser import CommandParser

__all__ = [
    "DATA_HELP",
    "add_data_options",
    "add_flow",
    "add_mixing",
    "check_same_classes",
    "load_on",
    "locks_out",
    "mixing",
    "new_parser",
    "open_data",
    "out_file",
]

T = TypeVar("T")
DATA_HELP = (
    "a folder with one sub-folder of images per class (any folder of images for a flow without "
    "classes), or of images beside a labels.csv (file,label); a tar of one; a .npz file with "
    "images and labels; a folder of IDX files (MNIST's format), of WebDataset shards or of parquet "
    "files; a timm data-set name such as torch/cifar10; or 'digits'"
)


def new_parser(command: str, description: str, epilog: str | None = None) -> ArgumentParser:
    """Create the parser of a command, with --json."""
    parser = CommandParser(prog=f"nfaug {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def locks_out(run: Callable[[Namespace], T]) -> Callable[[Namespace], T]:
    """Decorate a command's `run`: it holds the lock of --out, if that is given."""

    @functools.wraps(run)
    def locked(arguments: Namespace) -> T:
        if arguments.out is None:
            return run(arguments)
        with lock_output(Path(arguments.out)):
            return run(arguments)

    return locked


def add_data_options(parser: ArgumentParser, split: str) -> None:
    """Add --data and the options of how it is read; `split` is the preferred split."""
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--split", help=f"part of the data: train or test (default: {split} if it exists)"
    )
    parser.add_argument(
        "--data-dir", help="where a named data set, or the cache of parquet files, is stored"
    )
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
    parser.add_argument("--scale-16-bit", action="store_true", help="scale 16-bit images to 8 bits")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="the most pixels that an image may have"
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


def add_mixing(parser: ArgumentParser, prefix: str = "") -> None:
    """An option for each field of `MixSettings` but p, such as --strength 1.0 or --gate off."""
    parsed = docstring_parser.parse(MixSettings.__doc__ or "").params
    docs = {param.arg_name: param.description for param in parsed}
    hints = get_type_hints(MixSettings)
    for field in _mixing_fields():
        accepted = [hint for hint in get_args(hints[field.name]) if hint is not bool]
        option_type = hints[field.name]
        if type(None) in accepted:
            accepted += [Literal["off"]] if field.default is not None else []
            option_type = functools.reduce(operator.or_, accepted)
        parser.add_argument(
            f"--{prefix}{field.name.replace('_', '-')}",
            type=option_type,
            default=field.default,
            help=docs[field.name],
        )


def mixing(arguments: Namespace, prefix: str = "") -> MixSettings:
    """The settings of the options of `add_mixing`."""
    given: dict[str, Any] = {
        field.name: arguments[f"{prefix}{field.name}"] for field in _mixing_fields()
    }
    given = {name: None if value == "off" else value for name, value in given.items()}
    return MixSettings(**given)


def _mixing_fields() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(MixSettings) if field.name != "p"]


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
    convert: bool = True,
    any_shape: bool = False,
) -> Any:
    """Open the data set of --data, read as the checkpoint's flow needs it.

    Without --split, the first of `splits` that exists is read, with a warning if it is not
    `splits[0]`. `labels` says whether a folder needs class sub-folders, `image_size` replaces the
    flow's, `convert` allows colour images to be converted to the flow's channels, and with
    `any_shape` images keep their own size and channels.
    """
    from ..data.open import MissingSplitError, open_dataset

    def opened(split: str) -> Any:
        return open_dataset(
            arguments.data,
            split=split,
            data_dir=arguments.data_dir,
            image_size=image_size or (None if any_shape else checkpoint.flow.codec.image_size),
            channels=None if any_shape else checkpoint.flow.codec.channels,
            convert=convert,
            scale_16_bit=arguments.scale_16_bit,
            max_pixels=arguments.max_pixels,
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
        check_class_names(dataset.classes, checkpoint.config.class_names)


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
