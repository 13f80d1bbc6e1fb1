"""nfaug fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint import refuse_existing
from ..fitting import fit
from ..fixed_point import FixedPointConfig
from ..preview import preview_grid
from .common import add_data_options, add_flow, load_on, new_parser, open_data

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug fit`."""
    made = new_parser(
        "fit",
        "Fit an existing flow to your classes in one pass over your images: class gaussians, PCA "
        "axes and the memory of partners. The flow itself is not trained.",
    )
    add_flow(made)
    add_data_options(made, "train")
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument("--rank", type=int, default=64, help="PCA axes per class")
    made.add_argument(
        "--max-per-class", type=int, default=1000, help="images of a class that are used at most"
    )
    made.add_argument(
        "--no-memory",
        action="store_true",
        help="keep no partner memory (it reproduces training images nearly)",
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
    refuse_existing(out, overwrite=arguments.overwrite)
    fixed_point = parser().instantiate(arguments)["fixed_point"]
    if arguments.gaussians == "data" and fixed_point != FixedPointConfig():
        raise ValueError("--fixed_point settings need --gaussians fpi")
    base = load_on(arguments)
    dataset = open_data(arguments, base)
    checkpoint = fit(
        base,
        dataset,
        gaussians="data" if arguments.gaussians == "data" else fixed_point,
        rank=arguments.rank,
        max_per_class=arguments.max_per_class,
        memory=not arguments.no_memory,
        seed=arguments.seed,
    )
    checkpoint.save(out, overwrite=True)
    preview_grid(checkpoint, dataset, seed=arguments.seed).save(out / "samples.png")
    assert checkpoint.pca is not None
    return {
        "out": str(out),
        "classes": len(checkpoint.config.class_names),
        "images": checkpoint.config.gaussians["images"],
        "axes": int(checkpoint.pca.rank),
        "skipped_files": dataset.skipped,
    }
