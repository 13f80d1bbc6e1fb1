"""nfaug train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..atomic import write_text
from ..checkpoint import refuse_existing
from ..jsonable import jsonable
from ..training.config import TrainConfig, recipe_path, recipes
from ..training.timm_names import PREFIXES
from .common import DATA_HELP, new_parser
from .push import add_push_options, push_target, push_trained

__all__ = ["expand", "parser", "run"]


def expand(argv: Sequence[str]) -> list[str]:
    """Put the YAML file of every --recipe in front, so that all other options override it.

    Options may be written with hyphens: --max-minutes is --max_minutes.

    Raises:
        ValueError: there is no such recipe.
    """
    files, rest = [], []
    words = iter(argv)
    for word in words:
        option, _, name = word.partition("=")
        if option == "--recipe":
            files += ["-c", str(recipe_path(name or next(words, "")))]
        else:
            rest.append(_underscored(word))
    return files + rest


def _underscored(word: str) -> str:
    """An option's name with underscores, as the fields of `TrainConfig` have them."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def data_name(data: str) -> str:
    """What the training record says of --data: a timm name as it is, of a path the last part."""
    if data.partition("/")[0].lower() in PREFIXES:
        return data
    name = Path(os.path.abspath(os.path.expanduser(data))).name or data
    return name.encode(errors="replace").decode()  # a file system may have names that are no text


def parser() -> ArgumentParser:
    """Options of `nfaug train`: the data, the output, and every field of `TrainConfig`."""
    made = new_parser(
        "train",
        "Train a normalizing flow on your images, then fit class gaussians and PCA axes to it. "
        "The result is a checkpoint directory that the other commands and NFAugment take.",
        "A recipe or a YAML file sets any of these options; options given on the command line "
        "after a file win. --print_config shows the resolved settings; a run saves them as "
        "train.yaml in --out.",
    )
    made.usage = "nfaug train --data DATA --out OUT [--recipe NAME] [-c FILE] [OPTION ...]"
    made.add_argument("--data", required=True, help=DATA_HELP)
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument(
        "--recipe",
        help=f"settings that come with nfaug: {', '.join(recipes())} (small: any image folder)",
    )
    made.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file of settings")
    made.add_argument("--split", default="train", help="which part of the data to train on")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument(
        "--pictures",
        type=bool,
        default=True,
        help="draw loss, latents, pairwise KL and convergence into --out/pictures, for TensorBoard "
        "too",
    )
    add_push_options(made)
    made.add_class_arguments(TrainConfig)
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Train, save, and report the figures."""
    from ..preview import preview_grid
    from ..training import train
    from ..training.data import open_dataset
    from ..training.pictures import run_figures, save_figures

    if arguments.recipe is not None:  # `expand` took it from the command line
        raise ValueError("a file of settings cannot name a recipe; give --recipe as an option")
    out = Path(arguments.out)
    refuse_existing(out, overwrite=arguments.overwrite)
    repo = push_target(arguments)
    ready = parser().instantiate(arguments)
    config = TrainConfig(**{field.name: ready[field.name] for field in fields(TrainConfig)})
    dataset = open_dataset(
        arguments.data,
        split=arguments.split,
        data_dir=config.dataset.data_dir,
        image_size=config.dataset.image_size,
        channels=config.dataset.channels,
        per_class=config.dataset.per_class,
        on_error=config.dataset.on_error,
        seed=config.seed,
        download=config.dataset.download,
        labels=config.prior.kind != "single",
    )
    config = config.for_images(len(dataset))
    result = train(dataset, config, log=out / "log.csv")
    checkpoint = result.checkpoint
    checkpoint.config.training["data"] = data_name(arguments.data)
    checkpoint.save(out, overwrite=True)
    settings = {"data": arguments.data, "split": arguments.split, **config.to_dict()}
    write_text(out / "train.yaml", yaml.safe_dump(jsonable(settings), sort_keys=False))
    if checkpoint.pca is not None:
        preview_grid(checkpoint, dataset).save(out / "samples.png")
    else:  # of the checkpoint that was here before
        (out / "samples.png").unlink(missing_ok=True)
    if arguments.pictures:
        save_figures(run_figures(result, dataset), out / "pictures", tensorboard=True)
    pushed = {} if repo is None else {"pushed": push_trained(arguments, out, repo)}
    record = checkpoint.config
    return {"out": str(out), **record.training, "held_out": record.metrics, **pushed}
