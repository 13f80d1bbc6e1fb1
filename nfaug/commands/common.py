"""Options that several commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from ..augment.settings import MixSettings
from ..checkpoint.checkpoint import Checkpoint, load
from ..data.checks import check_class_names
from ..data.decode import MAX_PIXELS

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
    """A parser that refuses unknown and abbreviated options, and knows --json."""
    parser = ArgumentParser(
        prog=f"nfaug {command}", description=description, epilog=epilog, allow_abbrev=False
    )
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
    parser.add_argument("--scale-16-bit", action="store_true", help="scale 16-bit images to 8 bits")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="the most pixels that an image may have"
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


def add_mixing(parser: ArgumentParser, prefix: str = "") -> None:
    """An option for each field of `MixSettings` but p, such as --strength 1.0 or --gate off."""
    docs = MixSettings.docs()
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
    given = {field.name: arguments[f"{prefix}{field.name}"] for field in _mixing_fields()}
    return MixSettings.merge(None, {name: None if x == "off" else x for name, x in given.items()})


def _mixing_fields() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(MixSettings) if field.name != "p"]


def load_on(arguments: Namespace) -> Checkpoint:
    """The checkpoint of --flow on the device of --device."""
    from ..training.run.processes import pick_device

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
    """The data set of the options, read as the checkpoint's flow needs it, or at another size.

    With `any_shape` images keep their own size and channels, as `open_dataset` finds them.
    Without --split it is the first of `splits` that the data have, with a warning if that is not
    the first one. Unless `labels`, a folder needs no class folders.
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
        check_class_names(dataset.classes, checkpoint.config.class_names)


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
