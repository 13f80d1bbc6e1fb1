"""nfaug fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.manifest import PICTURE
from ..classes.priors import fitted_priors
from ..fitting.config import FitConfig
from ..io.atomic import write_picture
from ..io.text import printable
from .common import (
    Place,
    add_channels,
    add_checkpoint,
    add_data_options,
    add_image_size,
    add_out,
    loading,
    place,
    reading,
    saving,
)
from .parser import Count, new_parser

# What --help shows.
_USUAL = (
    *("checkpoint", "device", "autoencoder", "data", "split", "download", "per_class"),
    *("image_size", "channels", "out", "overwrite", "rank", "no_memory", "gaussians"),
)

if TYPE_CHECKING:
    from ..checkpoint.checkpoint import Checkpoint
    from ..data.images import Images
    from ..fitting.run import FitRun
    from ..run.ranks import Ranks


def parser() -> ArgumentParser:
    """Options of `nfaug fit`."""
    parser = new_parser(
        "fit",
        "Fit a checkpoint to your classes, in one pass over your images and without training: the "
        "axes along which each class varies, and the memory of partners. At most --per-class "
        "images of a class are used, by default 1,000. The mode is pixels with builtin:pixels, "
        "autoencoder with builtin:pixels and --autoencoder, and flow with another checkpoint. An "
        "autoencoder's file of up to 64 MiB is copied into the checkpoint.",
        usage="--checkpoint CHECKPOINT --data DATA --out OUT [options]",
        example="nfaug fit --checkpoint builtin:pixels --data my-images --out my-nfa",
    )
    add_checkpoint(parser)
    add_data_options(parser, "train", f"{FitConfig.per_class:,}")
    add_image_size(
        parser,
        "that of the flow; with builtin:pixels that of the images, or at most 128 if they differ",
    )
    add_channels(
        parser, "those of the flow; with builtin:pixels 1 if all images are grayscale, otherwise 3"
    )
    add_out(parser, "the checkpoint's folder")
    parser.add_argument("--rank", type=Count, default=64, help="axes per class")
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="leave out the memory, from which training images can nearly be rebuilt; the axes "
        "stay, and show some of them",
    )
    parser.add_argument(
        "--gaussians",
        choices=fitted_priors(),
        help="also find class Gaussians, for nfaug eval and nfaug sample; NFA does not use them: "
        "the means and variances of the images (data), or those of the fixed point, which "
        "separates classes (fpi). Every image is then encoded twice",
    )
    parser.show_all_with("--help-all", _USUAL)
    return parser


def run(arguments: Namespace) -> dict[str, Any] | None:
    """Fit, save, and report the fit. The processes of `torchrun` share the work."""
    from ..checkpoint.autoencoder import copy_autoencoder
    from ..fitting.run import FitRun
    from ..pictures.preview import preview_grid
    from ..run.ranks import joined

    out = Path(arguments.out)
    where = place(arguments.device)
    with joined() as ranks, FitRun.open(out, overwrite=arguments.overwrite) as fit_run:
        checkpoint, dataset = _fit(arguments, where, fit_run, ranks)
        if checkpoint is None:
            return None
        with saving(out):
            checkpoint.save(out, overwrite=True)
        copy_autoencoder(
            checkpoint.config.autoencoder,
            out,
            given=arguments.autoencoder,
            base=arguments.checkpoint,
        )
        fit_run.close()
        picture = preview_grid(checkpoint, dataset, seed=arguments.seed, progress=True)
        write_picture(out / PICTURE, picture)
    assert checkpoint.pca is not None
    return {
        "out": str(out),
        "classes": len(checkpoint.config.classes),
        "images": checkpoint.config.gaussians["images"],
        "image_size": list(dataset.image_size),
        "channels": dataset.channels,
        "axes": int(checkpoint.pca.rank),
        "skipped_files": dataset.skipped,
    }


def _fit(
    arguments: Namespace, where: Place, fit_run: FitRun, ranks: Ranks
) -> tuple[Checkpoint | None, Images]:
    """The fitted checkpoint, on the main process, and the images."""
    from ..fitting.checkpoints import fit_images, fit_source, load_base, open_images

    with loading(arguments.checkpoint, shown=ranks.main):
        base = load_base(arguments.checkpoint, arguments.autoencoder)
    base = base.to(where.device)
    dataset = open_images(
        base.flow,
        arguments.data,
        image_size=arguments.image_size,
        channels=arguments.channels,
        split=arguments.split or "train",
        progress=ranks.main,
        **reading(arguments),
    )
    if ranks.main:  # before the first progress bar, which may come late
        kind = "grayscale (1 channel)" if dataset.channels == 1 else f"{dataset.channels} channels"
        content = f"{len(dataset)} images of {len(dataset.classes)} classes, {kind}"
        print(
            f"fitting {printable(arguments.checkpoint)} to {content}", file=sys.stderr, flush=True
        )
    where.say()
    config = FitConfig(
        rank=arguments.rank,
        per_class=arguments.per_class or FitConfig.per_class,
        memory=not arguments.no_memory,
        gaussians=arguments.gaussians or False,
        seed=arguments.seed,
    )
    checkpoint = fit_images(
        base,
        dataset,
        config=config,
        autoencoder=arguments.autoencoder,
        source=fit_source(arguments.checkpoint, arguments.data),
        ranks=ranks,
        run=fit_run,
    )
    return checkpoint, dataset
