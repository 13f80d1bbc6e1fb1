"""Parameters and computing cost of recipes, calculated from their settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from nfaug.data.preprocess import as_size
from nfaug.flows.config import FlowConfig

from ..config import TrainConfig, recipe_path

__all__ = ["recipe_config", "recipe_cost"]


def recipe_config(name: str) -> TrainConfig:
    """Load the settings of a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    from jsonargparse import ArgumentParser  # a run in Python needs no parser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    settings = parser.instantiate(parser.parse_path(recipe_path(name)))
    return TrainConfig(**{field.name: settings[field.name] for field in fields(TrainConfig)})


def recipe_cost(name: str) -> dict[str, Any]:
    """The flow that a recipe trains on pixels, and its GFLOP per image and direction.

    With an autoencoder the flow's shape is that of its latents, which the settings do not tell:
    then only the autoencoder's name is returned.

    Raises:
        ValueError: If there is no such recipe.
    """
    config = recipe_config(name)
    if config.autoencoder is not None or config.dataset.image_size is None:
        return {"autoencoder": config.autoencoder}
    size = as_size(config.dataset.image_size)
    flow = FlowConfig(config.dataset.channels or 3, size, config.flow)
    return {
        "flow": {**flow.to_dict(), "parameters": flow.parameter_count},
        "gflop_per_image_and_direction": flow.flop / 1e9,
    }
