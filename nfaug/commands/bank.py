"""nfaug bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..bank import Bank, export_bank, make_bank, merge_bank
from ..bank.shards import shard_manifests
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
    "Several processes can make one bank: each is given its own --shard i/n, and the last one to "
    "finish merges the shards in --out (nfaug bank --merge --out OUT does so by hand). On one kind "
    "of device and with one number of threads, the bank is bit for bit that of a single process."
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
    made.add_argument("--workers", type=int, default=0, help="processes that decode images")
    made.add_argument("--shard", help="the part of the bank to make: i/n with i from 0 to n - 1")
    made.add_argument(
        "--merge", action="store_true", help="join the shards in --out instead of making variants"
    )
    add_mixing(made)
    made.add_argument("--export", help="folder to also write the variants to, as WebDataset shards")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Make the bank or a shard of it, merge it if it is complete, and export it if asked."""
    if arguments.merge:
        return _report(arguments, merge_bank(arguments.out))
    if missing := [f"--{name}" for name in ("flow", "data") if arguments[name] is None]:
        raise ValueError(f"{' and '.join(missing)} must be given, except with --merge")
    shard = None if arguments.shard is None else _shard(arguments.shard)
    if shard is not None and arguments.export is not None:
        raise ValueError("--export needs the whole bank: pass it with --merge, after the shards")
    bank = _make(arguments, shard)
    if shard is None:
        return _report(arguments, bank)
    out = Path(arguments.out).expanduser()
    done = sum(made is not None and made.complete for made in shard_manifests(out).values())
    bank = merge_bank(out) if done == shard[1] else bank
    return {**_report(arguments, bank), "shard": arguments.shard, "complete_shards": done}


def _shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"."""
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        raise ValueError(f"--shard must be i/n, such as 0/8; got {text!r}") from None
    return part, parts


def _make(arguments: Namespace, shard: tuple[int, int] | None) -> Bank:
    checkpoint = load_on(arguments)
    size = None if arguments.residual else arguments.image_size
    dataset = open_data(arguments, checkpoint, image_size=size)
    return make_bank(
        checkpoint,
        dataset,
        arguments.out,
        variants=arguments.variants,
        residual=arguments.residual,
        shard=shard,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        settings=mixing(arguments),
    )


def _report(arguments: Namespace, bank: Bank) -> dict[str, Any]:
    result: dict[str, Any] = {
        "out": arguments.out,
        "images": len(bank),
        "variants": bank.manifest.variants,
        "bytes": bank.manifest.nbytes,
        "applied": int(bank.applied.sum()),
    }
    if arguments.export is not None:
        dataset = None
        if bank.manifest.residual:
            if None in (arguments.flow, arguments.data):
                raise ValueError("--export of a residual bank needs --flow and --data")
            dataset = open_data(arguments, load_on(arguments), image_size=arguments.image_size)
        result["exported"] = export_bank(bank, arguments.export, dataset=dataset)
    return result
