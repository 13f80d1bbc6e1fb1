"""nfaug fit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torch.utils.data import Dataset

from ..augment.preview import preview_grid
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint
from ..data.preprocess import size_of
from ..fitting import fit, load_base, with_shape_of
from ..gaussians.priors import FITTED_PRIORS
from ..io.atomic import check_output, write_picture
from ..io.device import pick_device
from ..io.manifest import PICTURE
from ..io.ranks import Ranks, joined
from ..resolve import public_name
from .common import add_data_options, add_flow, locks_out, new_parser, open_data

__all__ = ["parser", "run"]

_VIEWS = 8
_FRESH = 2000  # new views, spread over the classes, that are tested against the gate

_ABOUT_AUGMENT = (
    "Use --augment if NFA runs after random transforms, as in most training scripts. A random crop "
    "may lie outside the range that a plain fit gives its class, and NFA leaves such images "
    "unchanged. SPEC describes your script's transforms by arguments of "
    'timm.data.create_transform: --augment "scale=(0.4,1) hflip=0.5 '
    'auto_augment=rand-m9-mstd0.5". auto_augment is --aa of timm\'s train.py. An empty SPEC ("") '
    "means timm's defaults. Axes, memory and ranges are then fitted to random views of your "
    "images, and the command reports the share of new views that NFA leaves unchanged, with a "
    "plain fit and with this one. A large share alone is not a reason to use --augment: in "
    "docs/where-in-the-pipeline.md a plain fit that left a third of the crops unchanged gave the "
    "better classifier. Random erasing runs later, in timm's loader, and cannot be fitted to."
)


def parser() -> ArgumentParser:
    """Options of `nfaug fit`."""
    made = new_parser(
        "fit",
        "Fit an existing flow to your classes in one pass over your images: class gaussians, PCA "
        "axes and the memory of partners. The flow itself is not trained. With builtin:pixels as "
        "the flow, --autoencoder DIR mixes latents of this autoencoder in place of pixels.",
        _ABOUT_AUGMENT,
    )
    add_flow(made)
    add_data_options(made, "train")
    made.add_argument(
        "--grayscale", action="store_true", help="convert colour images for a one-channel flow"
    )
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument("--rank", type=int, default=64, help="PCA axes per class")
    made.add_argument(
        "--max-per-class",
        type=int,
        default=1000,
        help="the largest number of images per class (of views, with --augment)",
    )
    made.add_argument(
        "--no-memory",
        action="store_true",
        help="do not save the partner memory, which nearly reproduces training images",
    )
    made.add_argument(
        "--augment",
        metavar="SPEC",
        help="fit under your training script's random transforms, such as \"scale=(0.4,1) "
        'hflip=0.5"; see below',
    )
    made.add_argument(
        "--views", type=int | None, help=f"random views of each image, with --augment ({_VIEWS})"
    )
    made.add_argument(
        "--img-size",
        type=PositiveInt | None,
        help="size in pixels at which your script trains, with --augment (the flow's size); for "
        "builtin:pixels also the size that images are resized and cropped to (their own)",
    )
    made.add_argument(
        "--gaussians",
        choices=list(FITTED_PRIORS),
        default="data",
        help="class gaussians: moments of the data (data), or separated by the fixed point (fpi) "
        "or by gradient descent (gradient)",
    )
    for prior in FITTED_PRIORS.values():
        if prior.option:
            made.add_class_arguments(type(prior.defaults), prior.option)
    return made


@locks_out
def run(arguments: Namespace) -> dict[str, Any] | None:
    """Fit, save, and report the fit. The processes of `torchrun` share the work."""
    with joined() as ranks:
        return _run(arguments, ranks)


def _run(arguments: Namespace, ranks: Ranks) -> dict[str, Any] | None:
    out = Path(arguments.out)
    check_output(out, overwrite=arguments.overwrite)
    gaussians = _gaussians(arguments)
    size = arguments.img_size
    base = load_base(arguments.flow, arguments.autoencoder).to(pick_device(arguments.device))
    free = base.flow.shape_free
    if arguments.augment is None and (arguments.views is not None or (size and not free)):
        raise ValueError("--views and --img-size need --augment SPEC")
    dataset = open_data(
        arguments,
        base,
        convert=arguments.grayscale,
        any_shape=free,
        image_size=size if free else None,
    )
    base = with_shape_of(base, dataset, arguments.autoencoder, seed=arguments.seed)
    settings = {
        "rank": arguments.rank,
        "max_per_class": arguments.max_per_class,
        "memory": not arguments.no_memory,
        "seed": arguments.seed,
        "gaussians": gaussians,
        "distributed": ranks.count > 1,
    }
    if arguments.augment is None:
        images, told = dataset, dict[str, Any]()
        checkpoint = fit(base, images, **settings)
    else:
        images, checkpoint, told = _under_transforms(arguments, base, dataset, settings)
    if not ranks.main:
        return None
    names = {"flow": public_name(arguments.flow), "data": public_name(arguments.data)}
    config = checkpoint.config
    config = replace(config, gaussians={**config.gaussians, **names})
    checkpoint = replace(checkpoint, config=config)
    checkpoint.save(out, overwrite=True)
    write_picture(out / PICTURE, preview_grid(checkpoint, images, seed=arguments.seed))
    assert checkpoint.pca is not None
    return {
        "out": str(out),
        "classes": len(checkpoint.config.class_names),
        "images": checkpoint.config.gaussians["images"],
        "axes": int(checkpoint.pca.rank),
        "skipped_files": dataset.skipped,
        **told,
    }


def _gaussians(arguments: Namespace) -> Any:
    """The settings of the chosen prior, or its name if it has none."""
    given = parser().instantiate(arguments)
    for kind, prior in FITTED_PRIORS.items():
        changed = prior.option and given[prior.option] != prior.defaults
        if changed and kind != arguments.gaussians:
            raise ValueError(f"--{prior.option} settings need --gaussians {kind}")
    option = FITTED_PRIORS[arguments.gaussians].option
    return given[option] if option else arguments.gaussians


def _under_transforms(
    arguments: Namespace, base: Checkpoint, dataset: Any, settings: dict[str, Any]
) -> tuple[Dataset[Any], Checkpoint, dict[str, Any]]:
    """The fitted views, the fit, and the share of new views that the gate rejects."""
    from ..augment.views import AugmentedViews, gated_share
    from ..integrations.timm import training_transform

    size = base.flow.codec.image_size
    trained_at = arguments.img_size or size
    transform = training_transform(arguments.augment, trained_at)
    stored = _AsStored(dataset)

    def views(number: int, seed: int, per_class: int) -> AugmentedViews:
        return AugmentedViews(
            stored, transform, image_size=size, views=number, seed=seed, per_class=per_class
        )

    seed, number = arguments.seed, _VIEWS if arguments.views is None else arguments.views
    with warnings.catch_warnings():  # the fit that is kept warns of too few images
        warnings.simplefilter("ignore", UserWarning)
        plain = fit(base, dataset, **{**settings, "gaussians": "data"})
    images = views(number, seed, arguments.max_per_class)
    checkpoint = fit(base, images, **settings)
    note = {"augment": arguments.augment, "views": number, "img_size": trained_at}
    config = checkpoint.config
    config = replace(config, gaussians={**config.gaussians, **note})
    new = views(1, seed + 1, max(1, _FRESH // len(dataset.classes)))
    told = {
        "views": len(new),
        "gated_by_a_plain_fit": gated_share(NFAugment(plain), new)["gated"],
        "gated_by_this_fit": gated_share(NFAugment(checkpoint), new)["gated"],
    }
    return images, replace(checkpoint, config=config), {"new_views": told}


class _AsStored(Dataset[tuple[Tensor, int]]):
    """The images of a data set at their stored size, which is the input of a script's transforms.

    A crop of a large image has more detail than the same crop of the resized image.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.targets = images.targets
        self.classes = images.classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images.reader.read(int(self.images.indices[index]))
        in_channels = replace(self.images.preprocess, image_size=size_of(image))
        return in_channels(image, self.images.name(index)), int(self.targets[index])
