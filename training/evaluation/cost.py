"""Computing cost of recipes, calculated from their settings."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from nfaug.data.preprocess import as_size
from nfaug.flows.config import FlowConfig

from ..config import TrainConfig, recipe_path

__all__ = ["recipe_config", "recipe_cost", "recipe_flow"]

#: Training images of the data set that a recipe is named after.
IMAGES = {
    "digits": 1_442,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenet64": 1_281_167,
    "imagenet-vae": 1_281_167,
    "imagenet-taesd": 1_281_167,
    "imagenet-dc": 1_281_167,
}


class Autoencoder(NamedTuple):
    """Shape of an autoencoder's latents, and GFLOP per image of 256 x 256 pixels."""

    channels: int
    factor: int
    encode: int
    decode: int


#: The autoencoders of the recipes. Others are assumed to have the latents of the first.
AUTOENCODERS = {
    "stabilityai/sd-vae-ft-mse": Autoencoder(4, 8, encode=273, decode=622),
    "madebyollin/taesd": Autoencoder(4, 8, encode=31, decode=35),
    "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": Autoencoder(32, 32, encode=324, decode=523),
}
_PASSES = 3  # cost of a training step in forward passes; each recomputation adds one
_SPEED = 0.4 * 19.5e12  # an assumed share of an A100's float32 FLOP/s: flows do not train in TF32


def recipe_config(name: str) -> TrainConfig:
    """Load the settings of a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    from jsonargparse import ArgumentParser  # a run in Python needs no parser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    settings = parser.instantiate(parser.parse_path(recipe_path(name)))
    return TrainConfig(**{f.name: settings[f.name] for f in dataclasses.fields(TrainConfig)})


def recipe_flow(config: TrainConfig) -> FlowConfig:
    """The flow that the settings train; see `AUTOENCODERS` for the latents of an autoencoder.

    Images are RGB unless `dataset.channels` is set.

    Raises:
        ValueError: If `dataset.image_size` is not set.
    """
    if config.dataset.image_size is None:
        raise ValueError("the cost depends on dataset.image_size, which is not set")
    channels, size = config.dataset.channels or 3, as_size(config.dataset.image_size)
    if config.autoencoder is not None:
        usual = next(iter(AUTOENCODERS.values()))
        channels, factor, *_ = AUTOENCODERS.get(config.autoencoder, usual)
        size = size[0] // factor, size[1] // factor
    return FlowConfig(channels, size, config.flow)


def recipe_cost(name: str) -> dict[str, Any]:
    """The flow of a recipe and its cost: GFLOP per image and direction, and hours on an A100.

    For a flow on latents also the GFLOP of `NFAugment` per image of 256 x 256 pixels: it encodes an
    image once with the autoencoder and decodes twice.

    Hours are images * epochs * passes * FLOP / (0.4 * 19.5e12): 3 forward passes per step, one more
    for each level of recomputation, at an assumed 40% of the card's float32 peak. They are absent
    if the recipe has no data set of its own or a time limit.

    Raises:
        ValueError: If there is no such recipe.
    """
    config = recipe_config(name)
    flow = recipe_flow(config)
    cost: dict[str, Any] = {
        "flow": {**flow.to_dict(), "parameters": flow.parameter_count},
        "gflop_per_image_and_direction": flow.flop / 1e9,
    }
    if (autoencoder := AUTOENCODERS.get(config.autoencoder or "")) is not None:
        total = autoencoder.encode + 2 * autoencoder.decode + 3 * flow.flop / 1e9
        cost["gflop_per_augmented_image"] = round(total)
    if (images := IMAGES.get(name)) is not None and config.max_minutes is None:
        passes = _PASSES + (config.optim.recompute == "steps")
        hours = images * config.epochs * passes * flow.flop / _SPEED / 3600
        cost |= {"images": images, "epochs": config.epochs, "card_hours": hours}
    return cost
