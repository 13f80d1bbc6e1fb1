"""Progress of a run: a bar or log lines, a CSV file, trackers and pictures."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfaug.data.images import LINE_SECONDS, progress_bar
from nfaug.io.atomic import write_bytes, write_text

from ..report.page import LOG, duration, flat
from .context import RunContext
from .snapshots import RunState

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Reporter", "training_figures"]


class Reporter:
    """Reports progress, on the main process only.

    A terminal gets a bar; a redirected standard error gets a line every 30 seconds and at each row
    of the log. Files are written only if there is a folder, and are replaced whole, so that a
    reader never sees half of one. Every 30 seconds the log also gets a row without figures of an
    evaluation; the next evaluation replaces these rows. A resumed run drops the rows that it will
    write again.
    """

    def __init__(self, context: RunContext, folder: Path | None) -> None:
        self.context = context
        self.folder = folder if context.processes.main else None
        self.trackers: list[Any] = []
        per_epoch = len(context.data.labels)
        terminal = sys.stderr.isatty()
        self.bar = progress_bar(
            context.config.epochs * per_epoch, "train", "image", shown=context.shown and terminal
        )
        self.lines = context.shown and not terminal
        self.interim: list[dict[str, float]] = []  # rows of the log since the last evaluation
        self.printed, self.images, self.steps, self.done = time.monotonic(), 0, 0, 0.0
        self.began: tuple[float, float] | None = None  # time and share done at the first step

    def start(self, state: RunState) -> None:
        """Open the log and the trackers at the state's step."""
        self.rewind(state)
        accelerator = self.context.processes.accelerator
        if self.folder is None or accelerator is None or not self.context.config.trackers:
            return
        steps = state.optimizer.steps
        accelerator.init_trackers(
            "nfaug",
            config={k: _scalar(v) for k, v in flat(self.context.config.to_dict()).items()},
            init_kwargs={
                "tensorboard": {"purge_step": steps + 1 if steps else 0},
                "wandb": {"name": self.folder.name, "dir": str(self.folder)},
                "trackio": {"name": self.folder.name},
            },
        )
        self.trackers = list(accelerator.trackers)

    def step(self, state: RunState, images: int, done: float) -> None:
        """Report a step on `images` images, after which a share `done` of the run is over."""
        if not self.bar.disable:
            self.bar.set_postfix(self._postfix(state), refresh=False)
            self.bar.update(images)
        self.images, self.steps, self.done = self.images + images, self.steps + 1, done
        self.began = self.began or (time.monotonic(), done)
        seconds = time.monotonic() - self.printed
        if seconds >= LINE_SECONDS:
            row = training_figures(state, self.steps, self.images / max(seconds, 1e-9))
            self._print_line(state, row["images_per_second"])
            if self.folder is not None:
                self.interim.append(row)
                self._write_log(state)

    def row(self, state: RunState) -> None:
        """Report a new row of the log, which replaces those since the last evaluation."""
        # A speed without the time of the evaluation.
        self._print_line(state, state.history[-1].get("images_per_second", math.nan))
        self.interim = []
        if self.folder is None:
            return
        self._write_log(state)
        row = {name: value for name, value in state.history[-1].items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log(row, step=state.optimizer.steps)

    def pictures(self, state: RunState) -> None:
        """Draw the progress picture."""
        if self.folder is None:
            return
        from .pictures import progress_picture

        drawn = {"progress_samples": progress_picture(self.context, state)}
        self.show(drawn, state.optimizer.steps)

    def show(self, pictures: Mapping[str, Image.Image], step: int) -> None:
        """Write pictures into the folder and to the trackers that take images."""
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
                elif hasattr(tracker, "log_images"):  # trackio has none
                    tracker.log_images(values, step=step)

    def rewind(self, state: RunState) -> None:
        """Move to the state's step, at the start or after a rollback."""
        position = (state.epoch - 1) * len(self.context.data.labels)
        position += state.position * self.context.config.batch_size
        self.bar.n = self.bar.initial = self.bar.last_print_n = position
        self.printed, self.images, self.steps, self.began = time.monotonic(), 0, 0, None
        self.interim = []
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_log(state)

    def close(self) -> None:
        """Close the bar and the trackers."""
        self.bar.close()
        for tracker in self.trackers:
            tracker.finish()
        self.trackers = []

    def _postfix(self, state: RunState) -> dict[str, str]:
        shown = {"bits/dim": f"{state.losses[-1]:.3f}"} if state.losses else {}
        row = state.history[-1] if state.history else {}
        if "nf_acc" in row:
            shown["NF-Acc"] = f"{row['nf_acc']:.3f}"
        if (limit := self.context.config.max_minutes) is not None:
            shown["at most"] = f"{max(0.0, limit - state.elapsed / 60):.0f} min"
        return shown

    def _print_line(self, state: RunState, speed: float) -> None:
        now = time.monotonic()
        self.printed, self.images, self.steps = now, 0, 0
        if not self.lines:
            return
        parts = [f"epoch {state.epoch} of {self.context.config.epochs}"]
        parts.append(f"step {state.optimizer.steps}")
        if state.losses:
            parts.append(f"{state.losses[-1]:.3f} bits/dim")
        if math.isfinite(speed):
            parts.append(f"{speed:.0f} images/s")
        began, share = self.began or (now, self.done)
        if self.done > share:
            left = (now - began) * (1 - self.done) / (self.done - share)
            parts.append(f"{duration(left)} left")
        print("train: " + ", ".join(parts), file=sys.stderr, flush=True)

    def _write_log(self, state: RunState) -> None:
        assert self.folder is not None
        rows = state.history + self.interim
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval=math.nan)
        if names:
            writer.writeheader()
        writer.writerows(rows)
        if rows:
            write_text(self.folder / LOG, text.getvalue())
        else:
            (self.folder / LOG).unlink(missing_ok=True)


def training_figures(state: RunState, steps: int, speed: float) -> dict[str, float]:
    """The figures of the last `steps` steps, for a row of the log; `speed` in images per second."""
    optimizer, recent = state.optimizer, state.losses[-steps:]
    return {
        "epoch": state.epoch,
        "step": optimizer.steps,
        "seconds": round(state.elapsed, 2),
        f"train_{optimizer.flow.codec.figure}": sum(recent) / len(recent) if recent else math.nan,
        "lr": optimizer.rate,
        "skipped_steps": optimizer.skipped,
        "images_per_second": round(speed, 2),
    }


def _scalar(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
