"""Options and checks that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from ..augment.config import MixConfig
from ..checkpoint.checkpoint import Checkpoint, load
from ..data.open import DATA_SOURCES
from ..data.preprocess import as_size
from ..data.sources.layout import splits_among
from ..io.device import pick_device
from ..io.text import printable

__all__ = [
    "CHECKPOINT",
    "READING",
    "add_autoencoder",
    "add_checkpoint",
    "add_data_options",
    "add_image_size",
    "add_out",
    "add_reading",
    "lies_in",
    "load_on",
    "mixing",
    "new_parser",
    "picture_file",
    "reading",
]

READING = ("data_dir", "download", "on_error")
CHECKPOINT = "a checkpoint directory, owner/name on the Hub, or builtin:NAME"
_LONGEST_ERROR = 2000  # characters
_YAML = "yaml without aliases"  # the mode of our parsers; that of others stays as it is
_load_yaml = get_loader("yaml")


def _without_aliases(text: str) -> Any:
    """Load YAML without its aliases: a few lines of them stand for millions of values."""
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("settings cannot have YAML aliases (*name)")
    try:
        return _load_yaml(text)
    except RecursionError:
        raise yaml.YAMLError("settings nest too deep") from None


set_loader(_YAML, _without_aliases, (yaml.YAMLError,))
# A value such as `optim: helper.X` could otherwise name a class, whose module is then imported.
# jsonargparse has this setting for the whole process alone, so other parsers of a script that
# imports this module import no class either.
set_parsing_settings(import_path_denylist=["*"])


class CommandParser(ArgumentParser):
    """An argument parser whose options have hyphens: `--max-minutes`, `--dataset.per-class`."""

    unknown_hint = ""  # what an error adds after arguments that the command does not have

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": argparse.HelpFormatter, "allow_abbrev": False, **options}
        super().__init__(print_config="--print-config", parser_mode=_YAML, **options)

    # jsonargparse gives this method to its groups as well, and there it sees only module globals.
    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument as jsonargparse does, named with hyphens and with its default shown."""
        if dataclasses.is_dataclass(options.get("type")):  # its fields come one by one
            return super().add_argument(*names, **options)
        if options.get("help") == argparse.SUPPRESS:  # an option of jsonargparse
            return super().add_argument(*names, **options)
        hyphened = [_hyphened(name) for name in names]
        if "action" not in options and "type" not in options:  # a settings file has any value
            options["type"] = str if options.get("required") else str | None
        if "help" in options:
            options["help"] = _described(**options)
        action = super().add_argument(*hyphened, **options)
        takes_value = bool(action.option_strings) and action.nargs != 0
        if takes_value and action.metavar is None and action.choices is None:
            _, _, name = action.dest.rpartition(".")
            action.metavar = name.upper()
        return action

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None, **options: Any
    ) -> Namespace:
        try:
            parsed = super().parse_args(args, namespace, **options)
        except ModuleNotFoundError:  # a package that must be installed
            raise
        except ImportError as error:  # a settings file names a class
            self.error(str(error))
        except OverflowError:  # a whole number has hundreds of digits
            self.error("a number in the settings is too large")
        for group in self.groups or ():  # a settings file can give a dataclass any value
            if not isinstance(parsed.get(group, Namespace()), Namespace):
                self.error(f"{group} must be a mapping of settings; got {parsed[group]!r:.80}")
        path = parsed.get("out")
        if isinstance(path, str):
            parsed.out = os.path.expanduser(path)  # shells do not expand the ~ of --out=~/run
            data = parsed.get("data")
            if data and not parsed.get("resume") and _counts_as_data(parsed.out, data):
                self.error(f"--out {path} lies in --data {data}, among its images: choose another")
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 after the message in one line."""
        line = _in_plain_words(" ".join(printable(message).split()))
        if line.lower().startswith("unrecognized arguments"):
            line += self.unknown_hint
        shown = printable(line, longest=_LONGEST_ERROR)  # it may quote a value of any length
        self.exit(2, f"{self.prog}: error: {shown} (see {self.prog} --help)\n")


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
    "NoneType": "null",
}
_WRONG_TYPE = re.compile(r'Parser key "([\w.]+)": .*?(?:Given value|Got value): (.*)')
_NAMED_CLASS = re.compile(r'(?:Parser key "([\w.]+)": .*?)?Importing (.*?) is not allowed')


def _in_plain_words(message: str) -> str:
    """A message of jsonargparse without the names of Python's types.

    `Parser key "per_class": Does not validate against any of the Union subtypes Subtypes: [int,
    NoneType] ... Given value: ten` becomes `--per-class must be a whole number or null; got 'ten'`.
    """
    message = re.sub(r"<class '(.*?)'>", r"\1", message)
    named = _NAMED_CLASS.search(message)
    if named is not None:
        setting, given = named.groups()
        option = "a setting" if setting is None else _hyphened(f"--{setting}")
        return f"{option} takes values, and no class; got {given}"
    wrong = _WRONG_TYPE.search(message)
    types = re.findall(r"Expected a (?:typing\.)?(\w+)", message)
    if wrong is None or not types:
        return message
    expected: list[str] = []
    choices = re.search(r"Literal\[(.*?)\]", message)
    if choices is not None:
        expected.append(f"one of {choices[1]}")
    for name in dict.fromkeys(types):
        if name != "Literal":
            expected.append(_TYPES.get(name, name))
    setting, given = wrong.groups()
    return f"{_hyphened(f'--{setting}')} must be {' or '.join(expected)}; got {given!r}"


def _hyphened(option: str) -> str:
    """An option as it is typed: --prior.fixed-point for --prior.fixed_point.

    The name of a positional argument is left as it is.
    """
    if not option.startswith("--"):
        return option
    return option.replace("_", "-")


def lies_in(place: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, links followed."""
    root = Path(folder).expanduser().resolve()
    return root.is_dir() and Path(place).expanduser().resolve().is_relative_to(root)


def _counts_as_data(out: str, data: str) -> bool:
    """Whether a file in `out` could be read as an image of the folder `data`."""
    if not lies_in(out, data):
        return False
    root = Path(data).expanduser().resolve()
    below = Path(out).resolve().relative_to(root).parts
    if not below:
        return True
    top = below[0]
    folders = {child.name for child in root.iterdir() if child.is_dir()}
    folders.add(top)
    splits = splits_among(folders)
    return not splits or top in splits  # folders beside those of splits are not read


def _described(help: str, default: Any = None, required: bool = False, **_: Any) -> str:
    """A help text with the default."""
    text = re.sub(r"\bNone\b", "null", " ".join(help.split()))
    if required:
        text = f"{text} (required)"
    elif default is not None and default != argparse.SUPPRESS:
        shown = default if isinstance(default, str) else json.dumps(default)
        text = f"{text} (default: {shown})"
    return text.replace("%", "%%")


def new_parser(command: str, description: str, epilog: str | None = None) -> CommandParser:
    """Create the parser of a command, with --json."""
    parser = CommandParser(prog=f"nfaug {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def add_out(parser: ArgumentParser, what: str) -> None:
    """Add --out, which is `what`, and --overwrite."""
    parser.add_argument("--out", required=True, help=f"{what} to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")


def add_data_options(parser: ArgumentParser, split: str) -> None:
    """Add --data and the options of how it is read; `split` is the preferred split."""
    parser.add_argument("--data", required=True, help=DATA_SOURCES)
    parser.add_argument(
        "--split", help=f"part of the data: train or test (default: {split} if it exists)"
    )
    add_reading(parser)
    parser.add_argument(
        "--per-class",
        type=int | None,
        help="use exactly this many random images of each class; a class with fewer is an error",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")


def add_reading(parser: ArgumentParser) -> None:
    """Add the options in `READING`."""
    parser.add_argument("--data-dir", help="where a named data set is stored")
    parser.add_argument("--download", action="store_true", help="download a named data set")
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


def _image_size(value: Any) -> tuple[int, int]:
    try:
        return as_size(value)
    except ValueError as error:  # for which argparse would show the name of the type only
        raise argparse.ArgumentTypeError(str(error)) from None


def add_checkpoint(parser: ArgumentParser) -> None:
    """Add --checkpoint, --device and --autoencoder."""
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, ...; auto is the GPU if there is one"
    )
    add_autoencoder(parser)


def add_autoencoder(parser: ArgumentParser) -> None:
    """Add --autoencoder."""
    parser.add_argument(
        "--autoencoder",
        help="the autoencoder of a checkpoint on latents, or the one whose latents builtin:pixels "
        "mixes: a safetensors file, a directory or owner/name on the Hub",
    )


def mixing(arguments: Namespace) -> MixConfig:
    """The settings of the options that `add_class_arguments(MixConfig)` added."""
    settings = {}
    for field in dataclasses.fields(MixConfig):
        if field.name in arguments:
            settings[field.name] = arguments[field.name]
    return MixConfig(**settings)


def load_on(arguments: Namespace, process: int | None = None) -> Checkpoint:
    """Load the checkpoint --checkpoint onto --device; for `process` see `pick_device`."""
    checkpoint = load(arguments.checkpoint, autoencoder=arguments.autoencoder)
    return checkpoint.to(pick_device(arguments.device, process))


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
