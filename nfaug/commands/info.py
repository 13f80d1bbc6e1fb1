"""nfaug info."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.checkpoint import load
from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug info`."""
    made = new_parser(
        "info",
        "Describe a checkpoint (flow, classes, gaussians, figures), or the cost of a recipe.",
    )
    made.add_argument(
        "flow", nargs="?", help="a checkpoint directory, owner/name on the Hub, or builtin:NAME"
    )
    made.add_argument(
        "--recipe",
        help="describe a recipe of nfaug train instead: its flow, GFLOP per image and direction, "
        "and an estimate of the GPU hours",
    )
    made.add_argument(
        "--autoencoder",
        help="for a flow on latents: its autoencoder's directory or owner/name, if it has moved",
    )
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Load and describe a checkpoint, or estimate the cost of a recipe."""
    if (arguments.flow is None) == (arguments.recipe is None):
        raise ValueError("give either a checkpoint or --recipe NAME")
    if arguments.recipe is not None:
        from ..training.evaluation.cost import recipe_cost

        return {"recipe": arguments.recipe, **recipe_cost(arguments.recipe)}
    checkpoint = load(arguments.flow, autoencoder=arguments.autoencoder)
    config = checkpoint.config
    pca = checkpoint.pca
    return {
        "flow": {
            **config.flow.to_dict(),
            "parameters": sum(p.numel() for p in checkpoint.flow.parameters()),
        },
        "autoencoder": None if config.autoencoder is None else config.autoencoder.to_dict(),
        "classes": len(config.class_names),
        "class_names": list(config.class_names),
        "preprocessing": config.preprocessing,
        "gaussians": config.gaussians,
        "pca": None
        if pca is None
        else {
            "axes": int(pca.rank),
            "memory_images": 0 if pca.memory is None else len(pca.memory),
        },
        "training": config.training,
        "metrics": config.metrics,
    }
