"""nfaug fit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor
from torch.utils.data import Dataset

from ..augment.preview import preview_grid
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint
from ..fitting import fit
from ..gaussians.fixed_point.solver import FixedPointConfig
from ..io.atomic import check_output
from .common import add_data_options, add_flow, load_on, new_parser, open_data

__all__ = ["parser", "run"]

_VIEWS = 8
_FRESH = 2000  # new views, spread over the classes, that are tried against the gate

_ABOUT_AUGMENT = (
    "--augment is for NFA behind random transforms, which is where it stands in most training "
    "scripts: a random crop that a plain fit never saw lies outside its class's range, and NFA "
    "leaves such images as they are. SPEC says what your script does, in the arguments of "
    'timm.data.create_transform: --augment "scale=(0.4,1) hflip=0.5 '
    "auto_augment=rand-m9-mstd0.5\". What timm's train.py calls --aa is auto_augment here; an "
    'empty SPEC ("") is all of timm\'s defaults. Axes, memory and ranges are then those of random '
    "views of your images, and the command ends with the share of new views that NFA would leave "
    "as they are, with a plain fit and with this one. A large share alone is no reason for it: in "
    "docs/where-in-the-pipeline.md a plain fit that left a third of the crops as they were was the "
    "better one. Random erasing comes last in timm, in its loader, and cannot be fitted to."
)


def parser() -> ArgumentParser:
    """Options of `nfaug fit`."""
    made = new_parser(
        "fit",
        "Fit an existing flow to your classes in one pass over your images: class gaussians, PCA "
        "axes and the memory of partners. The flow itself is not trained.",
        _ABOUT_AUGMENT,
    )
    add_flow(made)
    add_data_options(made, "train")
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument("--rank", type=int, default=64, help="PCA axes per class")
    made.add_argument(
        "--max-per-class",
        type=int,
        default=1000,
        help="images of a class (views of them, with --augment) that are used at most",
    )
    made.add_argument(
        "--no-memory",
        action="store_true",
        help="keep no partner memory (it reproduces training images nearly)",
    )
    made.add_argument(
        "--augment",
        metavar="SPEC",
        help="fit under your training script's random transforms, as in \"scale=(0.4,1) "
        'hflip=0.5"; see below',
    )
    made.add_argument(
        "--views", type=int | None, help=f"with --augment: random views of each image ({_VIEWS})"
    )
    made.add_argument(
        "--img-size",
        type=int | None,
        help="with --augment: pixels that your script trains at (the flow's own)",
    )
    made.add_argument(
        "--gaussians",
        choices=["data", "fpi"],
        default="data",
        help="class gaussians: the data's own, or pushed apart by the fixed point",
    )
    made.add_class_arguments(FixedPointConfig, "fixed_point")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Fit, save, and say what was fitted."""
    out = Path(arguments.out)
    check_output(out, overwrite=arguments.overwrite)
    fixed_point = parser().instantiate(arguments)["fixed_point"]
    if arguments.gaussians == "data" and fixed_point != FixedPointConfig():
        raise ValueError("--fixed_point settings need --gaussians fpi")
    if arguments.augment is None and (arguments.views, arguments.img_size) != (None, None):
        raise ValueError("--views and --img-size are of views under --augment; give it a SPEC")
    base = load_on(arguments)
    dataset = open_data(arguments, base)
    settings = {
        "rank": arguments.rank,
        "max_per_class": arguments.max_per_class,
        "memory": not arguments.no_memory,
        "seed": arguments.seed,
        "gaussians": "data" if arguments.gaussians == "data" else fixed_point,
    }
    if arguments.augment is None:
        images, told = dataset, dict[str, Any]()
        checkpoint = fit(base, images, **settings)
    else:
        images, checkpoint, told = _under_transforms(arguments, base, dataset, settings)
    checkpoint.save(out, overwrite=True)
    preview_grid(checkpoint, images, seed=arguments.seed).save(out / "samples.png")
    assert checkpoint.pca is not None
    return {
        "out": str(out),
        "classes": len(checkpoint.config.class_names),
        "images": checkpoint.config.gaussians["images"],
        "axes": int(checkpoint.pca.rank),
        "skipped_files": dataset.skipped,
        **told,
    }


def _under_transforms(
    arguments: Namespace, base: Checkpoint, dataset: Any, settings: dict[str, Any]
) -> tuple[Dataset[Any], Checkpoint, dict[str, Any]]:
    """The views that were fitted to, the fit, and what the gate does with new ones."""
    from ..augment.views import AugmentedViews, gated_share
    from ..integrations.timm import training_transform

    if arguments.img_size is not None and arguments.img_size < 1:
        raise ValueError(f"--img-size must be at least 1 pixel; got {arguments.img_size}")
    size = base.flow.codec.image_size
    trained_at = arguments.img_size or size
    transform = training_transform(arguments.augment, trained_at)
    stored = _AsStored(dataset)

    def views(number: int, seed: int, per_class: int) -> AugmentedViews:
        return AugmentedViews(
            stored, transform, image_size=size, views=number, seed=seed, per_class=per_class
        )

    seed, number = arguments.seed, _VIEWS if arguments.views is None else arguments.views
    with warnings.catch_warnings():  # of too few images for the axes: the fit that is kept says so
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
    """The images of a data set at the size in which they are stored, as a script's transforms get
    them: a crop of a picture shows more than the same crop of the picture made small.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.targets = images.targets
        self.classes = images.classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from ..data.preprocess import Preprocess, size_of

        image = self.images.reader.read(int(self.images.indices[index]))
        in_channels = Preprocess(self.images.channels, size_of(image))
        return in_channels(image, self.images.name(index)), int(self.targets[index])
