"""nfaug train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..checkpoint.checkpoint import Checkpoint, load, refuse_existing
from ..data.timm_names import PREFIXES
from ..io.atomic import write_text
from ..io.names import CONFIG
from ..io.strict_json import jsonable
from ..training.config import TrainConfig, recipe_path, recipes
from .common import DATA_HELP, new_parser
from .push import add_push_options, push_target, push_trained

if TYPE_CHECKING:
    from ..training import TrainResult

__all__ = ["expand", "parser", "run"]

SETTINGS = "train.yaml"
EXIT_CODES = (
    "Exit codes: 0 done; 1 something is not installed; 2 bad input; 3 training diverged; 4 stopped "
    "by something outside (disk full, images gone, another process lost); 130 and 143 interrupted "
    "by Ctrl-C and SIGTERM, state saved. After 4, 130 and 143 --resume goes on."
)


def expand(argv: Sequence[str]) -> list[str]:
    """Put the YAML file of every --recipe in front, so that all other options override it.

    --resume DIR stands for the settings that are saved in DIR, and --out DIR. Options may be
    written with hyphens: --max-minutes is --max_minutes.

    Raises:
        ValueError: there is no such recipe, or no run in DIR; or --resume stands beside --init or
            --overwrite.
    """
    files, rest = [], []
    words = iter(argv)
    for word in words:
        option, _, name = word.partition("=")
        if option == "--recipe":
            files += ["-c", str(recipe_path(name or next(words, "")))]
        elif option == "--resume":
            folder = name or next(words, "")
            files += ["-c", str(_settings_of(folder)), "--out", folder]
            rest += ["--resume", folder]
        else:
            rest.append(word)
    given = {word.partition("=")[0] for word in rest}
    if "--resume" in given and (others := given & {"--init", "--overwrite"}):
        raise ValueError(
            "--resume goes on with what is in its directory; leave out "
            f"{' and '.join(sorted(others))}"
        )
    return files + rest


def _settings_of(folder: str) -> Path:
    """The settings of a run that was begun in a folder."""
    path = Path(folder).expanduser() / SETTINGS
    if not folder or not path.is_file():
        raise ValueError(
            f"--resume needs the --out of a run: there is no {SETTINGS} in {folder or 'it'}"
        )
    return path


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
        "train.yaml in --out. On several processes: accelerate launch -m nfaug.training, or "
        f"torchrun -m nfaug.training, with the same options. {EXIT_CODES}",
    )
    made.usage = "nfaug train --data DATA --out OUT [--recipe NAME] [-c FILE] [OPTION ...]"
    made.add_argument("--data", required=True, help=DATA_HELP)
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument(
        "--resume",
        help="go on with the run in this directory, in its settings; options after it win, but "
        "seed, batch_size and the images must stay. On a CPU, with max_minutes null, the result "
        "is bit for bit that of a run never stopped",
    )
    made.add_argument(
        "--init",
        help="start from the flow in this directory, or of owner/name on the Hub, instead of a new "
        "one; class gaussians are fitted anew",
    )
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
        help="draw loss, latents, pairwise KL and convergence into --out/pictures and for "
        "trackers; before, how far the run is, every pictures_every epochs",
    )
    add_push_options(made)
    made.add_class_arguments(TrainConfig)
    return made


def run(arguments: Namespace) -> dict[str, Any] | None:
    """Train, save, and report the figures; None on processes beside the main one."""
    from ..data.open import open_dataset
    from ..training import train
    from ..training.run.distributed import Processes
    from ..training.run.interruption import stopped_from_outside
    from ..training.run.snapshots import FolderStates

    if arguments.recipe is not None:  # `expand` took it from the command line
        raise ValueError("a file of settings cannot name a recipe; give --recipe as an option")
    out = Path(arguments.out).expanduser()  # shells leave --out=~/run as it is
    resumed = arguments.resume is not None
    if not resumed:
        _refuse_unfinished(out, overwrite=arguments.overwrite)
        refuse_existing(out, overwrite=arguments.overwrite)
    elif out.resolve() != Path(arguments.resume).expanduser().resolve():
        raise ValueError(
            f"--resume {arguments.resume} goes on in its own directory; leave out --out"
        )
    repo = push_target(arguments)
    ready = parser().instantiate(arguments)
    config = TrainConfig(**{field.name: ready[field.name] for field in fields(TrainConfig)})
    if not arguments.pictures:
        config = replace(config, pictures_every=0)
    init, config = _start(arguments, config, out, resumed=resumed)
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
    processes = Processes(config.device, config.trackers, out)
    try:
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
        pushed = {} if repo is None else {"pushed": push_trained(arguments, out, repo)}
        record = result.checkpoint.config
        return {"out": str(out), **record.training, "held_out": record.metrics, **pushed}
    finally:
        processes.close()


def _start(
    arguments: Namespace, config: TrainConfig, out: Path, *, resumed: bool
) -> tuple[Checkpoint | None, TrainConfig]:
    """The flow of --init, and settings of its shape; nothing is loaded for a run that goes on."""
    from ..training.run.snapshots import FolderStates
    from ..training.trainer import shape_of

    if arguments.init is None or (resumed and FolderStates(out).steps()):
        return None, config
    init = load(arguments.init, autoencoder=config.autoencoder)
    return init, replace(config, flow=shape_of(init, config.flow))


def _refuse_unfinished(out: Path, *, overwrite: bool) -> None:
    from ..training.run.snapshots import FolderStates

    if not overwrite and not (out / CONFIG).exists() and FolderStates(out).steps():
        raise FileExistsError(
            f"{out} holds a run that is not finished: go on with --resume {out}, or begin anew "
            "with --overwrite"
        )


def _save_settings(arguments: Namespace, config: TrainConfig, out: Path) -> None:
    settings = {"data": arguments.data, "split": arguments.split, **config.to_dict()}
    if arguments.init is not None:
        settings["init"] = arguments.init
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / SETTINGS, yaml.safe_dump(jsonable(settings), sort_keys=False))


def _save(arguments: Namespace, result: TrainResult, dataset: Any, out: Path) -> None:
    """The checkpoint and its picture."""
    from ..augment.preview import preview_grid

    checkpoint = result.checkpoint
    checkpoint.config.training["data"] = data_name(arguments.data)
    if arguments.init is not None:
        checkpoint.config.training["init"] = data_name(arguments.init)
    checkpoint.save(out, overwrite=True)
    if checkpoint.pca is not None:
        preview_grid(checkpoint, dataset).save(out / "samples.png")
    else:  # of the checkpoint that was here before
        (out / "samples.png").unlink(missing_ok=True)
