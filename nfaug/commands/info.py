"""nfaug info."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.checkpoint import load
from .common import FLOW, add_autoencoder, new_parser

__all__ = ["parser", "run"]

_VARIANTS = 20  # of each image, in the bank whose cost is told


def parser() -> ArgumentParser:
    """Options of `nfaug info`."""
    made = new_parser("info", "Describe a checkpoint: flow, classes, gaussians, figures, cost.")
    made.add_argument("flow", help=FLOW)
    add_autoencoder(made)
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Load and describe a checkpoint."""
    checkpoint = load(arguments.flow, autoencoder=arguments.autoencoder)
    config, pca = checkpoint.config, checkpoint.pca
    gflop, extra = config.flow.flop / 1e9, config.autoencoder is not None
    return {
        "flow": {**config.flow.to_dict(), "parameters": config.flow.parameter_count},
        "autoencoder": None if config.autoencoder is None else asdict(config.autoencoder),
        "classes": len(config.class_names),
        "class_names": list(config.class_names),
        "preprocessing": config.preprocessing,
        "gaussians": config.gaussians,
        "pca": None
        if pca is None
        else {"axes": int(pca.rank), "memory_images": 0 if pca.memory is None else len(pca.memory)},
        # NFA encodes an image once and decodes each variant, on latents also the image itself.
        "gflop_of_the_flow_per_image": {
            "encode_or_decode": gflop,
            "training_epoch_at_p_0.5": 0.5 * (2 + extra) * gflop,
            f"bank_of_{_VARIANTS}_variants": (1 + extra + _VARIANTS) * gflop,
        },
        "training": config.training,
        "metrics": config.metrics,
    }
