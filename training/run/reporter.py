"""Progress of a run: a bar or log lines, a CSV file, trackers and pictures."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nfaug.augment.preview import picture_grid
from nfaug.checkpoint.checkpoint import sample_images
from nfaug.data.images import progress_bar
from nfaug.io.atomic import write_picture, write_text

from ..config import flat
from .context import RunContext
from .snapshots import RunState

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Reporter"]

LOG = "log.csv"
_CLASSES, _COLUMNS = 10, 6  # rows and columns of the picture of samples


class Reporter:
    """Reports progress, on the main process only.

    A terminal gets a bar; a redirected standard error gets a line every 30 seconds and at each row
    of the log. Files are written only if there is a folder, and are replaced whole, so that a
    reader never sees half of one. A resumed run drops the rows of the log that it will write again.
    """

    def __init__(self, context: RunContext, folder: Path | None) -> None:
        self.context = context
        self.folder = folder if context.processes.main else None
        self.trackers: list[Any] = []
        images = context.config.epochs * len(context.data.labels)
        self.bar = progress_bar(images, "train", "image", shown=context.shown)

    def start(self, state: RunState) -> None:
        """Open the log and the trackers at the state's step."""
        self.rewind(state)
        accelerator = self.context.processes.accelerator
        if self.folder is None or accelerator is None or not self.context.config.trackers:
            return
        steps = state.optimizer.steps
        settings = flat(self.context.config.to_dict())
        accelerator.init_trackers(
            "nfaug",
            config={
                name: value if isinstance(value, (str, int, float)) else str(value)
                for name, value in settings.items()
            },
            init_kwargs={
                "tensorboard": {"purge_step": steps + 1 if steps else 0},
                "wandb": {"name": self.folder.name, "dir": str(self.folder)},
                "trackio": {"name": self.folder.name},
            },
        )
        self.trackers = list(accelerator.trackers)

    def step(self, state: RunState, images: int, done: float) -> None:
        """Report a step on `images` images, after which a share `done` of the run is over."""
        if self.bar.disable:
            return
        limit = self.context.config.max_minutes
        if limit is not None and done:  # the time left follows the clock
            self.bar.total = round((self.bar.n + images) / done)
        parts = [f"train: epoch {state.epoch} of {self.context.config.epochs}"]
        parts.append(f"step {state.optimizer.steps}")
        if state.losses:
            parts.append(f"{state.losses[-1]:.3f} bits/dim")
        if state.history and "nf_acc" in state.history[-1]:
            parts.append(f"NF-Acc {state.history[-1]['nf_acc']:.3f}")
        self.bar.set_description_str(", ".join(parts), refresh=False)
        self.bar.update(images)

    def row(self, state: RunState) -> None:
        """Report a new row of the log."""
        self.bar.refresh()
        if self.folder is None:
            return
        self._write_log(state)
        row = {name: value for name, value in state.history[-1].items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log(row, step=state.optimizer.steps)

    def samples(self, state: RunState) -> None:
        """Draw samples of the flow, for the folder and for the trackers that take images."""
        if self.folder is None:
            return
        import numpy as np

        name, step = "progress_samples", state.optimizer.steps
        picture = _samples(self.context, state)
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        write_picture(self.folder / "pictures" / f"{name}.png", picture)
        values = {name: np.asarray(picture.convert("RGB"))[None]}
        for tracker in self.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images(values, step=step, dataformats="NHWC")
            elif hasattr(tracker, "log_images"):  # trackio has none
                tracker.log_images(values, step=step)

    def rewind(self, state: RunState) -> None:
        """Move to the state's step, at the start or after a rollback."""
        position = (state.epoch - 1) * len(self.context.data.labels)
        position += state.position * self.context.config.batch_size
        self.bar.reset()  # the clock, too: what came before took none of the bar's images
        self.bar.n = self.bar.initial = self.bar.last_print_n = position
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_log(state)

    def close(self) -> None:
        """Close the bar and the trackers."""
        self.bar.close()
        for tracker in self.trackers:
            tracker.finish()

    def _write_log(self, state: RunState) -> None:
        assert self.folder is not None
        names = list(dict.fromkeys(name for row in state.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval=math.nan)
        if names:
            writer.writeheader()
        writer.writerows(state.history)
        write_text(self.folder / LOG, text.getvalue())


@torch.no_grad()
def _samples(context: RunContext, state: RunState) -> Image.Image:
    """Samples of a running flow: a row for each of the first 10 classes.

    Uses the averaged weights and none of the run's generators.
    """
    names = [*context.classes][:_CLASSES] or ["all"]
    device = context.processes.device
    labels = torch.arange(len(names), device=device).repeat_interleave(_COLUMNS)
    generator = torch.Generator(device).manual_seed(context.config.seed)
    samples = sample_images(state.optimizer.average, state.gaussians, labels, generator=generator)
    return picture_grid(samples.cpu().unflatten(0, (-1, _COLUMNS)), [""] * _COLUMNS, names)
