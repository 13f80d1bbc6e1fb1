"""nfaug bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..augment.config import MixConfig
from .common import (
    add_channels,
    add_checkpoint,
    add_data_options,
    add_image_size,
    add_out,
    fit_first,
    load_on,
    mixing,
    place,
    reading,
)
from .parser import Count, Natural, new_parser

_SHARDS = (
    "Several processes can make one bank: each is given its own --shard i/n and the same --out, "
    "which holds the bank once all are made. On CPUs, with one number of threads, the bank is bit "
    "for bit that of a single process."
)
# What --help shows.
_USUAL = (
    *("checkpoint", "device", "autoencoder", "data", "split", "download", "out", "overwrite"),
    *("variants", "residual", "image_size", "workers", "shard", "mix"),
)


def parser() -> ArgumentParser:
    """Options of `nfaug bank`."""
    parser = new_parser(
        "bank",
        "Compute variants of every image in advance and store them, so that training costs nothing "
        "more: nfaug.bank.BankDataset replaces images by their variants. The same command, "
        "without --overwrite, continues an interrupted bank.",
        _SHARDS,
        usage="--checkpoint CHECKPOINT --data DATA --out OUT [options]",
        example="nfaug bank --checkpoint my-nfa --data my-images --out my-bank",
    )
    add_checkpoint(parser)
    add_data_options(parser, "train")
    add_out(parser, "the folder of the bank")
    parser.add_argument("--variants", type=Count, default=20, help="variants per image")
    add_image_size(
        parser,
        "that of the flow, if images have it; choose the size to which your script resizes images",
    )
    add_channels(parser, "those of the checkpoint, which the bank must have")
    parser.add_argument("--batch-size", type=Count, default=64, help="images at a time")
    parser.add_argument(
        "--workers",
        type=Natural,
        help="processes that decode images (default: the machine's cores, divided by its GPUs if "
        "there are as many shards)",
    )
    parser.add_argument("--shard", help="the part of the bank to make: i/n with i from 0 to n - 1")
    parser.add_class_arguments(MixConfig, skip={"p"})
    parser.show_all_with("--help-all", _USUAL)
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Make the bank or a shard of it."""
    import torch

    from ..bank import Bank, make_bank
    from ..bank.shards import parse_shard, shard_manifests
    from ..data.batches import default_workers
    from ..data.open import open_dataset
    from ..data.view import Wanted

    config = mixing(arguments)
    shard = None if arguments.shard is None else parse_shard(arguments.shard)
    where = place(arguments.device, process=None if shard is None else shard[0])
    checkpoint = load_on(arguments, where.device, gaussians=False)
    out = Path(arguments.out).expanduser()
    size = arguments.image_size
    if checkpoint.pca is None:
        raise fit_first(arguments.checkpoint, arguments.data)
    codec = checkpoint.flow.codec
    wanted = Wanted(codec.channels).chosen(arguments.channels)
    data = open_dataset(
        arguments.data,
        split=arguments.split or "train",
        image_size=size,
        channels=wanted.channels,
        **reading(arguments),
    )
    height, width = data.image_size
    if size is None and (height, width) != codec.image_size:
        raise ValueError(
            f"{arguments.data} has images of {height} x {width} pixels, and the checkpoint works "
            f"at {codec.image_size[0]} x {codec.image_size[1]}: pass --image-size, the size that "
            "your transform resizes images to"
        )
    workers = arguments.workers
    if workers is None:
        parts = 1 if shard is None else shard[1]
        workers = default_workers(max(1, min(parts, torch.cuda.device_count())))
    where.say()
    bank = make_bank(
        checkpoint,
        data,
        out,
        variants=arguments.variants,
        shard=shard,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        workers=workers,
        overwrite=arguments.overwrite,
        config=config,
    )
    complete_shards = 0
    if shard is not None:
        _, count = shard
        for manifest in shard_manifests(out).values():
            if manifest is not None and manifest.done == manifest.images:
                complete_shards += 1
        if complete_shards == count:
            bank = Bank(out)
    result: dict[str, Any] = {
        "out": arguments.out,
        "images": len(bank),
        "channels": codec.channels,
        "variants": bank.manifest.variants,
        "bytes": bank.manifest.nbytes,
        "applied": int(bank.applied.sum()),
    }
    if shard is not None:
        result["shard"] = arguments.shard
        result["complete_shards"] = complete_shards
    return result
