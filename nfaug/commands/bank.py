"""nfaug bank."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from .common import (
    add_data_options,
    add_flow,
    add_mixing,
    load_on,
    locks_out,
    mixing,
    new_parser,
    open_data,
)

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug bank`."""
    made = new_parser(
        "bank",
        "Make NFA variants of every image and store them, so that training needs no flow: "
        "nfaug.bank.BankDataset replaces images by their variants. The same command continues an "
        "interrupted bank.",
    )
    add_flow(made)
    add_data_options(made, "train")
    made.add_argument("--out", required=True, help="the directory of the bank")
    made.add_argument("--overwrite", action="store_true", help="replace the bank in --out")
    made.add_argument("--variants", type=int, default=4, help="variants per image")
    made.add_argument(
        "--image-size",
        type=PositiveInt | None,
        help="side in pixels of the square that images are resized and cropped to: the size at "
        "which your script stores its images (default: the flow's size)",
    )
    made.add_argument("--batch-size", type=int, default=64, help="number of images at a time")
    add_mixing(made)
    made.add_argument("--export", help="folder to also write the variants to, as PNG files")
    return made


@locks_out
def run(arguments: Namespace) -> dict[str, Any]:
    """Print the size, make the bank and export it if --export is given."""
    from ..bank.make import bank_bytes, export_bank, make_bank

    checkpoint = load_on(arguments)
    dataset = open_data(arguments, checkpoint, image_size=arguments.image_size)
    height, width = dataset.image_size
    size = bank_bytes(len(dataset), arguments.variants, (dataset.channels, height, width))
    print(
        f"{len(dataset)} images x {arguments.variants} variants of {width} x {height} pixels: "
        f"{size / 2**20:.1f} MiB",
        file=sys.stderr,
    )
    try:
        bank = make_bank(
            checkpoint,
            dataset,
            arguments.out,
            variants=arguments.variants,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            overwrite=arguments.overwrite,
            settings=mixing(arguments),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {_command(arguments)}") from None
    result: dict[str, Any] = {
        "out": arguments.out,
        "images": len(bank),
        "variants": arguments.variants,
        "bytes": size,
        "applied": int(bank.applied.sum()),
    }
    if arguments.export is not None:
        result["exported"] = export_bank(bank, arguments.export)
    return result


def _command(arguments: Namespace) -> str:
    """The command that continues the bank: that of these arguments without --overwrite."""
    defaults = parser().get_defaults()
    words = ["nfaug", "bank"]
    for name, value in vars(arguments).items():
        if name != "overwrite" and value != defaults.get(name):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
