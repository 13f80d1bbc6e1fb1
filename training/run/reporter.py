"""What a run shows while it goes on: a bar, a CSV file, trackers, pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.batches import progress_bar
from ...io.atomic import write_bytes, write_text
from ..report.html import flat
from ..report.run_folder import LOG
from .context import Setup
from .state import RunState

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Reporter"]


class Reporter:
    """Tells how a run is going; on the main process alone.

    Without a folder there is the bar and nothing else. Files are replaced whole, so that a reader
    never sees half of one, and a run that goes on takes back the rows that it will write again.
    """

    def __init__(self, setup: Setup, folder: Path | None) -> None:
        self.setup = setup
        self.folder = folder if setup.processes.main else None
        self.trackers: list[Any] = []
        per_epoch = len(setup.data.labels)
        self.bar = progress_bar(
            setup.config.epochs * per_epoch, "train", "image", shown=setup.shown
        )

    def start(self, state: RunState) -> None:
        """Begin, or go on."""
        self.rewind(state)
        accelerator = self.setup.processes.accelerator
        if self.folder is None or accelerator is None or not self.setup.config.trackers:
            return
        steps = state.optimizer.steps
        accelerator.init_trackers(
            "nfaug",
            config={k: _plain(v) for k, v in flat(self.setup.config.to_dict()).items()},
            init_kwargs={
                "tensorboard": {"purge_step": steps + 1} if steps else {},
                "wandb": {"name": self.folder.name, "dir": str(self.folder)},
                "trackio": {"name": self.folder.name},
            },
        )
        self.trackers = list(accelerator.trackers)

    def step(self, state: RunState, images: int) -> None:
        """After a step on so many images."""
        if not self.bar.disable:
            self.bar.set_postfix(self._postfix(state), refresh=False)
            self.bar.update(images)

    def row(self, state: RunState) -> None:
        """After a row of the log was added."""
        if self.folder is None:
            return
        self._write_log(state)
        row = {name: value for name, value in state.history[-1].items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log(row, step=state.optimizer.steps)

    def pictures(self, state: RunState) -> None:
        """Draw how far the run is."""
        if self.folder is None:
            return
        from .pictures import progress_pictures

        self.show(progress_pictures(self.setup, state), state.optimizer.steps)

    def show(self, pictures: Mapping[str, Image.Image], step: int) -> None:
        """Write pictures into the folder and to the trackers that take them."""
        if self.folder is None:
            return
        import numpy as np

        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            write_bytes(self.folder / "pictures" / f"{name}.png", buffer.getvalue())
            values = {name: np.asarray(picture.convert("RGB"))[None]}
            for tracker in self.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images(values, step=step, dataformats="NHWC")
                elif hasattr(tracker, "log_images"):  # trackio takes figures alone
                    tracker.log_images(values, step=step)

    def rewind(self, state: RunState) -> None:
        """The run is at another step than it was."""
        done = (state.epoch - 1) * len(self.setup.data.labels)
        done += state.position * self.setup.config.batch_size
        self.bar.n = self.bar.initial = self.bar.last_print_n = done
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_log(state)

    def close(self) -> None:
        """End the bar and what the trackers hold open."""
        self.bar.close()
        for tracker in self.trackers:
            tracker.finish()
        self.trackers = []

    def _postfix(self, state: RunState) -> dict[str, str]:
        shown = {"bits/dim": f"{state.losses[-1]:.3f}"} if state.losses else {}
        row = state.history[-1] if state.history else {}
        if "nf_acc" in row:
            shown["NF-Acc"] = f"{row['nf_acc']:.3f}"
        if (limit := self.setup.config.max_minutes) is not None:
            shown["at most"] = f"{max(0.0, limit - state.elapsed / 60):.0f} min"
        return shown

    def _write_log(self, state: RunState) -> None:
        assert self.folder is not None
        names = list(dict.fromkeys(name for row in state.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval=math.nan)
        if names:
            writer.writeheader()
        writer.writerows(state.history)
        if state.history:
            write_text(self.folder / LOG, text.getvalue())
        else:
            (self.folder / LOG).unlink(missing_ok=True)


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
