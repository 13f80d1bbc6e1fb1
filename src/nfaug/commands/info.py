"""nfaug info."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .common import CHECKPOINT
from .parser import new_parser

_VARIANTS = 20  # of each image, in the bank whose cost is shown


def parser() -> ArgumentParser:
    """Options of `nfaug info`."""
    parser = new_parser(
        "info",
        "Describe a checkpoint: its flow, classes, figures and cost.",
        usage="CHECKPOINT [options]",
        example="nfaug info builtin:fashion-mnist",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT)
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Load and describe a checkpoint."""
    from ..checkpoint.checkpoint import read_checkpoint
    from ..checkpoint.resolve import resolve

    checkpoint = read_checkpoint(resolve(arguments.checkpoint), on_latents=False)
    config = checkpoint.config
    flow = config.flow.to_dict()
    flow["parameters"] = config.flow.parameter_count
    autoencoder = None if config.autoencoder is None else asdict(config.autoencoder)
    pca = None
    if checkpoint.pca is not None:
        memory = checkpoint.pca.memory
        memory_images = 0 if memory is None else len(memory)
        pca = {"axes": int(checkpoint.pca.rank), "memory_images": memory_images}
    # NFA encodes an image once and decodes each variant, on latents also the image itself.
    gflop = config.flow.flop / 1e9
    passes_an_image = 1 if config.autoencoder is None else 2
    return {
        "flow": flow,
        "autoencoder": autoencoder,
        "num_classes": len(config.classes),
        "classes": list(config.classes),
        "preprocessing": config.preprocessing,
        "gaussians": config.gaussians,
        "pca": pca,
        "gflop_of_the_flow_per_image": {
            "encode_or_decode": gflop,
            "training_epoch_at_p_0.5": 0.5 * (passes_an_image + 1) * gflop,
            f"bank_of_{_VARIANTS}_variants": (passes_an_image + _VARIANTS) * gflop,
        },
        "training": config.training,
        "metrics": config.metrics,
    }
