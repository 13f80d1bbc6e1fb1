"""Trackers that receive the figures and pictures of a run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfaug.io.extras import require

__all__ = ["TRACKERS", "Tracker", "check_trackers"]


class Tracker:
    """A run of trackio, or of wandb, which has the same functions and takes pictures as well.

    Args:
        name: The module, whose `init` opens the run in the project nfaug.
        folder: The folder of the run, whose name the tracker shows.
        settings: Text, numbers and truth values by name.
        step: The step from which the run goes on; 0 for a new one.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self.module: Any = importlib.import_module(name)
        options = {"dir": str(folder)} if name == "wandb" else {}
        self.run: Any = self.module.init(
            project="nfaug", name=folder.name, config=dict(settings), **options
        )

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Add a row of the log."""
        self.run.log(dict(row), step=step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Add a picture, if the tracker takes pictures."""
        if self.module.__name__ == "wandb":
            self.run.log({name: self.module.Image(picture)}, step=step)

    def finish(self) -> None:
        """Close the run."""
        self.run.finish()


class TensorBoard(Tracker):
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = step + 1 if step else 0  # what an interrupted run wrote after its last state
        self.writer: Any = SummaryWriter(folder / name / "nfaug", purge_step=purged)
        self.writer.add_hparams(dict(settings), {})

    def log(self, row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        pixels = np.asarray(picture.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def finish(self) -> None:
        self.writer.close()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Tracker,
    "trackio": Tracker,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError if a tracker is unknown or not installed.

    Without tensorboard, which is a library of an extra, it is a ModuleNotFoundError.
    """
    for name in names:
        if name == "tensorboard":
            require(name)
        elif name not in TRACKERS or find_spec(name) is None:
            raise ValueError(
                f"there is no tracker {name!r} here: install it, or choose among tensorboard, "
                "wandb and trackio with --trackers"
            )
