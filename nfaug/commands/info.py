"""nfaug info."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.checkpoint import Checkpoint, load
from ..io.device import pick_device
from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug info`."""
    made = new_parser(
        "info",
        "Describe a checkpoint (flow, classes, gaussians, figures), what a bank and a run with it "
        "cost, or the cost of a recipe.",
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
    made.add_argument(
        "--plan",
        action="store_true",
        help="tell instead what a bank of --images, and an epoch with NFA, cost on this machine: "
        "bytes, FLOPs and hours",
    )
    made.add_argument("--images", type=int | None, help="with --plan: number of images")
    made.add_argument("--variants", type=int, default=4, help="with --plan: variants per image")
    made.add_argument(
        "--size", type=int | None, help="with --plan: side of the images (the flow's size)"
    )
    made.add_argument(
        "--processes",
        type=int,
        default=1,
        help="with --plan: number of processes, each as fast as this one",
    )
    made.add_argument(
        "--seconds", type=float, default=10.0, help="with --plan: time of the measurement"
    )
    made.add_argument(
        "--device", default="auto", help="with --plan: cpu, cuda, ...; auto is the GPU if any"
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
    if arguments.plan:
        return _plan(checkpoint, arguments)
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


def _plan(checkpoint: Checkpoint, arguments: Namespace) -> dict[str, Any]:
    from ..bank.plan import plan_cost

    if arguments.images is None:
        raise ValueError("--plan needs the number of images: --images N")
    return plan_cost(
        checkpoint.to(pick_device(arguments.device)),
        images=arguments.images,
        variants=arguments.variants,
        size=arguments.size,
        processes=arguments.processes,
        seconds=arguments.seconds,
    )
