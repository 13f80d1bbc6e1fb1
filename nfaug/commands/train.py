"""nfaug train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..augment.preview import preview_grid
from ..checkpoint.checkpoint import Checkpoint, load
from ..data.open import DATA_SOURCES
from ..io.atomic import check_output, write_picture, write_text
from ..io.lock import lock_output
from ..io.manifest import CONFIG, PICTURE
from ..io.resolve import public_name
from ..io.strict_json import jsonable
from ..training import TrainResult, open_dataset, train
from ..training.config import TrainConfig, current_settings, recipe_path, recipes
from ..training.run.distributed import Processes
from ..training.run.interruption import stopped_from_outside
from ..training.run.snapshots import FolderStates
from ..training.trainer import shape_of
from .common import new_parser

__all__ = ["expand", "parser", "run"]

SETTINGS = "train.yaml"
EXIT_CODES = (
    "Exit codes: 0 done; 1 a package is missing; 2 bad input; 3 training diverged; 4 stopped from "
    "outside (disk full, images lost, another process ended); 129, 130 and 143 interrupted by "
    "SIGHUP, Ctrl-C and SIGTERM after the state was saved. After 4, 129, 130 and 143 --resume "
    "continues the run."
)


def expand(argv: Sequence[str]) -> list[str]:
    """Replace --recipe and --resume by the files and options that they stand for.

    A recipe's YAML file goes first, so that other options override it. --resume DIR reads the
    settings saved in DIR and sets --out DIR.

    Raises:
        ValueError: If there is no such recipe, no run in DIR, or --resume is combined with --init
            or --overwrite.
    """
    files, rest = [], []
    words = iter(argv)
    for word in words:
        option, _, name = word.partition("=")
        if option == "--recipe":
            files += ["-c", str(recipe_path(name or next(words, "")))]
        elif option in ("-c", "--config"):
            rest += ["-c", *map(current_settings, [name] if name else islice(words, 1))]
        elif option == "--resume":
            folder = name or next(words, "")
            files += ["-c", current_settings(str(_settings_of(folder))), "--out", folder]
            rest += ["--resume", folder]
        else:
            rest.append(word)
    given = {word.partition("=")[0] for word in rest}
    if "--resume" in given and (others := given & {"--init", "--overwrite"}):
        raise ValueError(
            f"--resume continues the run in its directory; leave out {' and '.join(sorted(others))}"
        )
    return files + rest


def _settings_of(folder: str) -> Path:
    """Path of the settings saved in a run's folder."""
    path = Path(folder).expanduser() / SETTINGS
    if not folder or not path.is_file():
        raise ValueError(
            f"--resume needs the --out of a run; there is no {SETTINGS} in {folder or 'it'}"
        )
    return path


def parser() -> ArgumentParser:
    """Options of `nfaug train`: data, output, and every field of `TrainConfig`."""
    made = new_parser(
        "train",
        "Train a normalizing flow on your images, then fit class gaussians and PCA axes to it. "
        "The result is a checkpoint directory for NFAugment and the other commands.",
        "A recipe or a YAML file can set any of these options; options after it on the command "
        "line override it. --print-config shows the resolved settings; a run saves them as "
        "train.yaml in --out. For several processes use accelerate launch -m nfaug.training or "
        f"torchrun -m nfaug.training with the same options. {EXIT_CODES}",
    )
    made.usage = "nfaug train --data DATA --out OUT [--recipe NAME] [-c FILE] [OPTION ...]"
    made.add_argument("--data", required=True, help=DATA_SOURCES)
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument(
        "--resume",
        help="continue the run in this directory with its settings; other options override them, "
        "except that seed, batch size and images must stay. On a CPU and without --max-minutes "
        "the result is bit for bit that of an uninterrupted run",
    )
    made.add_argument(
        "--init",
        help="start from this flow, a directory or owner/name on the Hub, instead of a new one; "
        "class gaussians are solved again",
    )
    made.add_argument(
        "--recipe",
        help=f"settings in the package: {', '.join(recipes())} (small: any image folder)",
    )
    made.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file of settings")
    made.add_argument("--split", default="train", help="part of the data to train on")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument(
        "--pictures",
        type=bool,
        default=True,
        help="draw loss, latents, pairwise KL and convergence at the end, and progress pictures "
        "every --pictures-every epochs, for --out/pictures and trackers",
    )
    made.add_class_arguments(TrainConfig)
    return made


def run(arguments: Namespace) -> dict[str, Any] | None:
    """Train, save and return the figures; None on all processes but the main one."""
    if arguments.recipe is not None:  # `expand` took it from the command line
        raise ValueError("a settings file cannot name a recipe; pass --recipe as an option")
    out = Path(arguments.out)
    resumed = arguments.resume is not None
    if not resumed:
        _check_unfinished(out, overwrite=arguments.overwrite)
        check_output(out, overwrite=arguments.overwrite)
    elif out.resolve() != Path(arguments.resume).expanduser().resolve():
        raise ValueError(
            f"--resume {arguments.resume} writes to its own directory; leave out --out"
        )
    ready = parser().instantiate(arguments)
    config = TrainConfig(**{field.name: ready[field.name] for field in fields(TrainConfig)})
    if not arguments.pictures:
        config = replace(config, pictures_every=0)
    init, config = _start(arguments, config, out, resumed=resumed)
    dataset = open_dataset(
        arguments.data,
        split=arguments.split,
        seed=config.seed,
        labels=config.prior.entry.labelled,
        **config.dataset.reading(),
    )
    config = config.for_images(len(dataset))
    processes = Processes(config.device, config.trackers, out)
    try:
        with lock_output(out):  # in the group of processes, of which only one locks
            result = train(
                dataset,
                config,
                init=init,
                folder=out,
                resume=resumed,
                pictures=arguments.pictures,
                processes=processes,
                begin=lambda: _save_settings(arguments, config, out),
            )
            if not processes.main:
                return None
            with stopped_from_outside(FolderStates(out), processes):
                _save(arguments, result, dataset, out)
        record = result.checkpoint.config
        return {"out": str(out), **record.training, "held_out": record.metrics}
    finally:
        processes.close()


def _start(
    arguments: Namespace, config: TrainConfig, out: Path, *, resumed: bool
) -> tuple[Checkpoint | None, TrainConfig]:
    """Load the flow of --init and take over its shape; a resumed run has its own flow."""
    if arguments.init is None or (resumed and FolderStates(out).steps()):
        return None, config
    init = load(arguments.init, autoencoder=config.autoencoder)
    return init, replace(config, flow=shape_of(init, config.flow))


def _check_unfinished(out: Path, *, overwrite: bool) -> None:
    if not overwrite and not (out / CONFIG).exists() and FolderStates(out).steps():
        raise FileExistsError(
            f"{out} holds an unfinished run: continue it with --resume {out}, or replace it with "
            "--overwrite"
        )


def _save_settings(arguments: Namespace, config: TrainConfig, out: Path) -> None:
    settings = {name: arguments[name] for name in ("data", "split", "pictures")}
    settings |= config.to_dict()
    if arguments.init is not None:
        settings["init"] = arguments.init
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / SETTINGS, yaml.safe_dump(jsonable(settings), sort_keys=False))


def _save(arguments: Namespace, result: TrainResult, dataset: Any, out: Path) -> None:
    """Save the checkpoint and its picture."""
    checkpoint = result.checkpoint
    checkpoint.config.training["data"] = public_name(arguments.data)
    if arguments.init is not None:
        checkpoint.config.training["init"] = public_name(arguments.init)
    checkpoint.save(out, overwrite=True)
    if checkpoint.pca is not None:
        write_picture(out / PICTURE, preview_grid(checkpoint, dataset))
