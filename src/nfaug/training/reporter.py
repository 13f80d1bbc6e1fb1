"""Progress of a run: a bar or log lines, a CSV file, TensorBoard's files and pictures."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

import torch

from nfaug.io.atomic import write_picture, write_text
from nfaug.io.progress import progress_bar
from nfaug.pictures.preview import sample_grid

from .config import flat
from .context import RunContext
from .snapshots import RunState
from .tensorboard import TensorBoard


class Reporter:
    """Reports progress, on the main process only.

    A terminal gets a bar; a redirected standard error gets a line at the start, every 30 seconds
    and at each row of the log. Files are written only if there is a folder, and are replaced whole,
    so that a reader never sees half of one. A resumed run drops the rows of the log that it will
    write again.
    """

    def __init__(self, context: RunContext, folder: Path | None) -> None:
        self.context: RunContext = context
        self.folder: Path | None = folder if context.ranks.main else None
        self.tensorboard: TensorBoard | None = None
        images = context.config.epochs * len(context.data.targets)
        self.bar: Any = progress_bar(images, "train", "image", shown=context.shown)

    def start(self, state: RunState) -> None:
        """Open the log and TensorBoard's files at the state's step."""
        self.rewind(state)
        if self.folder is None or not self.context.config.tensorboard:
            return
        settings = flat(self.context.config.to_dict())
        for name, value in settings.items():
            if not isinstance(value, (str, int, float)):  # which TensorBoard takes
                settings[name] = str(value)
        self.tensorboard = TensorBoard(self.folder, settings, state.optimizer.steps)

    def step(self, state: RunState, images: int, done: float) -> None:
        """Report a step on `images` images, after which a share `done` of the run is over."""
        if self.bar.disable:
            return
        limit = self.context.config.max_minutes
        if limit is not None and done:  # the time left follows the clock
            self.bar.total = round((self.bar.n + images) / done)
        text = f"train: epoch {state.epoch} of {self.context.config.epochs}"
        text += f", step {state.optimizer.steps}"
        if state.losses:
            text += f", {state.losses[-1]:.3f} bits/dim"
        if state.history and "nf_acc" in state.history[-1]:
            text += f", NF-Acc {state.history[-1]['nf_acc']:.3f}"
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(images)

    def note(self, text: str) -> None:
        """Print a line for the reader on standard error."""
        if self.context.shown:
            self.bar.clear()
            print(text, file=sys.stderr, flush=True)

    def row(self, state: RunState) -> None:
        """Report a new row of the log."""
        self.bar.refresh()
        self._write_log(state)
        row = {name: value for name, value in state.history[-1].items() if math.isfinite(value)}
        if self.tensorboard is not None:
            self.tensorboard.log(row, step=state.optimizer.steps)

    @torch.no_grad()
    def samples(self, state: RunState) -> None:
        """Draw samples for the folder and TensorBoard: a row for each of the first 10 classes.

        Uses the averaged weights and none of the run's generators.
        """
        if self.folder is None:
            return
        classes = list(self.context.classes)[:10] or ["all"]
        flow = state.optimizer.average
        step = state.optimizer.steps
        picture = sample_grid(
            flow,
            state.gaussians,
            classes,
            6,
            seed=self.context.config.seed,
            progress=self.context.shown,
        )
        name = "progress_samples"
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        write_picture(self.folder / "pictures" / f"{name}.png", picture)
        if self.tensorboard is not None:
            self.tensorboard.picture(name, picture, step)

    def rewind(self, state: RunState) -> None:
        """Move to the state's step, at the start or after a rollback."""
        position = (state.epoch - 1) * len(self.context.data.targets)
        position += state.position * self.context.config.batch_size
        self.bar.reset()  # the clock, too: what came before took none of the bar's images
        self.bar.n = position
        self.bar.initial = position
        self.bar.last_print_n = position
        self._write_log(state)

    def close(self) -> None:
        """Close the bar and TensorBoard's files."""
        self.bar.close()
        if self.tensorboard is not None:
            self.tensorboard.finish()

    def _write_log(self, state: RunState) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, None] = {}  # in the order in which rows first have them
        for row in state.history:
            columns |= dict.fromkeys(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval=math.nan)
        if columns:
            writer.writeheader()
        writer.writerows(state.history)
        write_text(self.folder / "log.csv", text.getvalue())
