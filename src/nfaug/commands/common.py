"""Options and checks that several commands share."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from ..augment.config import MixConfig
from ..data.kinds import DATA_SOURCES
from ..io.numbers import as_size, check_side
from ..io.progress import progress_bar
from ..io.text import printable
from .parser import BadValue, Count, Seed

if TYPE_CHECKING:
    import torch

    from ..checkpoint.checkpoint import Checkpoint

READING = ("data_dir", "download", "on_error")
_NO_CUDA = "CUDA initialization: "  # how torch's warnings begin that it cannot use a GPU
CHECKPOINT = "a checkpoint: its folder, owner/name on the Hub, or builtin:NAME"


def add_out(parser: ArgumentParser, what: str) -> None:
    """Add --out, which is `what`, and --overwrite."""
    parser.add_argument("--out", required=True, help=f"{what} to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")


def add_data_options(parser: ArgumentParser, split: str, most: str = "all") -> None:
    """Add --data and the options of how it is read.

    Args:
        parser: The parser.
        split: The preferred split.
        most: What the default of --per-class is.
    """
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument(
        "--split",
        help=f"the part of the data: train, validation or test (default: {split} if it exists)",
    )
    add_reading(parser)
    parser.add_argument(
        "--per-class",
        type=Count,
        help=f"use at most this many random images of each class (default: {most})",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="seed of all random numbers")


def add_reading(parser: ArgumentParser) -> None:
    """Add the options in `READING`."""
    parser.add_argument("--data-dir", help="where named datasets are stored")
    parser.add_argument("--download", action="store_true", help="download a named dataset")
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="stop at an image file that cannot be decoded, or skip it",
    )


def add_image_size(parser: ArgumentParser, default: str) -> None:
    """Add --image-size, whose help describes its default."""
    parser.add_argument(
        "--image-size",
        type=_image_size,
        metavar="SIZE",
        help="pixels that images are resized and cropped to: the side of a square, such as 128, or "
        f"height,width, such as 128,96 (default: {default})",
    )


def add_channels(parser: ArgumentParser, default: str) -> None:
    """Add --channels, whose help describes its default."""
    parser.add_argument(
        "--channels",
        type=int,
        choices=[1, 3],
        help=f"1 for grayscale images, 3 for color, which a network with three input channels "
        f"needs (default: {default})",
    )


def _image_size(value: Any) -> tuple[int, int]:
    try:
        return check_side(as_size(value))
    except ValueError as error:  # for which argparse would show the name of the type only
        raise BadValue(str(error)) from None


def add_checkpoint(parser: ArgumentParser) -> None:
    """Add --checkpoint, --device and --autoencoder."""
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or cuda:1; auto is the GPU if there is one"
    )
    add_autoencoder(parser)


def add_autoencoder(parser: ArgumentParser) -> None:
    """Add --autoencoder."""
    parser.add_argument(
        "--autoencoder",
        help="with builtin:pixels: images are mixed in the latents of this autoencoder. With a "
        "flow on latents: the autoencoder that it was trained on. A safetensors file, a folder or "
        "owner/name on the Hub",
    )


def mixing(arguments: Namespace) -> MixConfig:
    """The settings of the options that `add_class_arguments(MixConfig)` added."""
    settings = {}
    for field in dataclasses.fields(MixConfig):
        if field.name in arguments:
            settings[field.name] = arguments[field.name]
    return MixConfig(**settings)


class Place(NamedTuple):
    """The device that a command computes on, and a line that says so."""

    device: torch.device
    line: str

    def say(self) -> None:
        """Print the line on standard error; of several processes the first one does.

        It comes before the work begins, and after what may be wrong with the input.
        """
        from ..run.ranks import own_rank

        if own_rank() == 0:
            print(self.line, file=sys.stderr, flush=True)


def place(name: str, process: int | None = None) -> Place:
    """The device `name`, as `pick_device` has it; to be called before all that might ask for a GPU.

    Torch warns once, when a process first asks, that it cannot use the GPU, such as of a driver
    that is too old. The line quotes it in place of that warning.
    """
    import torch

    from ..run.device import pick_device

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        device = pick_device(name, process)
    reason = ""
    for warning in said:
        text = str(warning.message)
        if text.startswith(_NO_CUDA):
            reason = text.removeprefix(_NO_CUDA).strip().partition(". ")[0]
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if device.type == "cpu":
        line = "computing on the CPU"
        if name == "auto" and reason:
            line += f"; torch cannot use the GPU: {reason}"
    else:
        line = f"computing on {device}"
        if device.type == "cuda":
            line += f", {torch.cuda.get_device_name(device)}"
    return Place(device, line)


def load_on(arguments: Namespace, device: torch.device, *, gaussians: bool = True) -> Checkpoint:
    """Load the checkpoint --checkpoint onto a device."""
    from ..checkpoint.checkpoint import load

    with loading(arguments.checkpoint):
        checkpoint = load(
            arguments.checkpoint, autoencoder=arguments.autoencoder, gaussians=gaussians
        )
    return checkpoint.to(device)


def fit_first(checkpoint: str, data: str = "DATA") -> ValueError:
    """The error of a command that needs a fitted checkpoint, with the command that fits it."""
    words = ["nfaug", "fit", "--checkpoint", checkpoint, "--data", data, "--out", "my-nfa"]
    return ValueError(
        f"{checkpoint} must be fitted to your classes first: {shlex.join(words)}. Then pass "
        "--checkpoint my-nfa"
    )


def loading(checkpoint: str, *, shown: bool = True) -> AbstractContextManager[Any]:
    """A line for a checkpoint that takes more than a second to load."""
    return progress_bar(None, f"loading {printable(checkpoint)}", shown=shown)


def saving(out: Path) -> AbstractContextManager[Any]:
    """A line for a checkpoint that takes more than a second to save."""
    return progress_bar(None, f"saving {printable(str(out))}", shown=True)


def without_gaussians(checkpoint: str) -> str:
    """The error of a command that needs the class Gaussians of a checkpoint that has none."""
    return (
        f"{checkpoint} has no class Gaussians. This finds them: nfaug fit --gaussians data "
        f"--checkpoint {checkpoint} --data DATA --out OUT"
    )


def reading(arguments: Namespace) -> dict[str, Any]:
    """The options of `add_data_options` as arguments of `open_dataset`, but data and split."""
    options = {name: arguments[name] for name in READING}
    options["per_class"] = arguments.per_class
    options["seed"] = arguments.seed
    return options


def picture_file(arguments: Namespace) -> Path:
    """The PNG file of --out, in a folder that exists.

    Raises:
        ValueError: Its name does not end in .png.
        FileExistsError: It exists, and --overwrite is not given.
    """
    file = Path(arguments.out)
    if file.suffix.lower() != ".png":
        raise ValueError(f"--out must name a file that ends in .png; got {arguments.out!r}")
    if file.exists() and not arguments.overwrite:
        raise FileExistsError(f"{file} exists; pass --overwrite to replace it")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
