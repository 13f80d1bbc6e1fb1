"""nfaug bank."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..bank import Bank, bank_bytes, export_bank, make_bank, merge_bank
from ..bank.shards import Shard, complete_shards
from ..io.lock import lock_output
from .common import (
    add_data_options,
    add_flow,
    add_image_size,
    add_mixing,
    load_on,
    mixing,
    new_parser,
    open_data,
)

__all__ = ["parser", "run"]

_SHARDS = (
    "Several processes can make one bank. Under torchrun, accelerate launch or a SLURM job array, "
    "each makes its own shard of --out; elsewhere, pass --shard i/n. The same command continues a "
    "shard. The last one to finish merges them; nfaug bank --merge --out OUT does so by hand. "
    "Nothing is copied. On one kind of device and with one number of threads, the bank is bit for "
    "bit the one that a single process makes."
)


def parser() -> ArgumentParser:
    """Options of `nfaug bank`."""
    made = new_parser(
        "bank",
        "Make NFA variants of every image and store them, so that training needs no flow: "
        "nfaug.bank.BankDataset replaces images by their variants. The same command continues an "
        "interrupted bank.",
        _SHARDS,
    )
    add_flow(made, required=False)  # --merge needs neither
    add_data_options(made, "train", required=False)
    made.add_argument("--out", required=True, help="the directory of the bank")
    made.add_argument("--overwrite", action="store_true", help="replace the bank in --out")
    made.add_argument("--variants", type=int, default=4, help="variants per image")
    made.add_argument(
        "--residual",
        action="store_true",
        help="store the change of each image at the flow's size, a few kB, and add it to images of "
        "any size in training",
    )
    add_image_size(
        made,
        "the flow's size; choose the size at which your script stores its images; with --residual "
        "the size of the exported images",
    )
    made.add_argument("--batch-size", type=int, default=64, help="number of images at a time")
    made.add_argument(
        "--workers",
        type=int,
        default=0,
        help="number of processes that decode images, for each process that makes variants",
    )
    made.add_argument(
        "--shard",
        default="auto",
        help="the part of the bank to make: i/n with i from 0 to n - 1, off, or auto for the "
        "process's number under torchrun or in a SLURM job array, if there is one",
    )
    made.add_argument(
        "--merge", action="store_true", help="join the shards in --out instead of making variants"
    )
    add_mixing(made)
    made.add_argument("--export", help="folder to also write the variants to, as PNG files")
    made.add_argument(
        "--export-format",
        choices=["png", "wds"],
        default="png",
        help="with --export: folders of PNG files, or WebDataset shards",
    )
    return made


def run(arguments: Namespace) -> dict[str, Any] | None:
    """Print the size, make the bank and export it if --export is given."""
    if arguments.merge:
        return _report(arguments, merge_bank(arguments.out))
    if missing := [f"--{name}" for name in ("flow", "data") if arguments[name] is None]:
        raise ValueError(f"{' and '.join(missing)} must be given, except with --merge")
    shard = _shard(arguments)
    if shard is not None and arguments.export is not None:
        raise ValueError("--export needs the whole bank: pass it with --merge, after the shards")
    out = Path(arguments.out)
    own = out if shard is None else shard.folder(out)
    with lock_output(own, every_rank=True):
        bank = _make(arguments, shard)
    if shard is None:
        return _report(arguments, bank)
    done = complete_shards(out)
    merged = merge_bank(out) if done == shard.parts else None
    result = {
        **_report(arguments, merged or bank),
        "shard": f"{shard.part}/{shard.parts}",
        "complete_shards": done,
    }
    return result if int(os.environ.get("RANK") or 0) == 0 else None


def _shard(arguments: Namespace) -> Shard | None:
    if arguments.shard == "auto":
        return Shard.of_environment()
    return None if arguments.shard == "off" else Shard.parse(arguments.shard)


def _make(arguments: Namespace, shard: Shard | None) -> Bank:
    checkpoint = load_on(arguments)
    size, residual = arguments.image_size, arguments.residual
    dataset = open_data(arguments, checkpoint, image_size=None if residual else size)
    count = len(dataset)
    if shard is not None:
        count = len(shard.rows(count, arguments.batch_size))
        print(f"shard {shard.part} of 0..{shard.parts - 1}", file=sys.stderr)
    height, width = dataset.image_size
    shape = (dataset.channels, height, width)
    space = bank_bytes(count, arguments.variants, shape, residual=residual)
    what = "changes" if residual else "variants"
    print(
        f"{count} images x {arguments.variants} {what} of {width} x {height} pixels: "
        f"{space / 2**20:.1f} MiB",
        file=sys.stderr,
    )
    try:
        return make_bank(
            checkpoint,
            dataset,
            arguments.out,
            variants=arguments.variants,
            residual=residual,
            shard=shard,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            overwrite=arguments.overwrite,
            progress=shard is None or int(os.environ.get("RANK") or 0) == 0,
            settings=mixing(arguments),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {_command(arguments)}") from None


def _report(arguments: Namespace, bank: Bank) -> dict[str, Any]:
    made = bank.manifest
    result: dict[str, Any] = {
        "out": arguments.out,
        "images": len(bank),
        "variants": made.variants,
        "bytes": bank_bytes(len(bank), made.variants, made.shape, residual=made.residual),
        "applied": int(bank.applied.sum()),
    }
    if arguments.export is not None:
        images = _images(arguments) if made.residual else None
        result["exported"] = export_bank(
            bank, arguments.export, dataset=images, format=arguments.export_format
        )
    return result


def _images(arguments: Namespace) -> Any:
    """The images that the changes of a residual bank are added to."""
    if arguments.flow is None or arguments.data is None:
        raise ValueError("--export of a residual bank needs --flow and --data")
    size = arguments.image_size
    return open_data(arguments, load_on(arguments), image_size=size)


def _command(arguments: Namespace) -> str:
    """The command that continues the bank: that of these arguments without --overwrite."""
    defaults = parser().get_defaults()
    words = ["nfaug", "bank"]
    for name, value in vars(arguments).items():
        if name != "overwrite" and value != defaults.get(name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
    return shlex.join(words)
