"""TensorBoard's files of the figures and pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class TensorBoard:
    """Event files in the folder `tensorboard` of the run.

    Args:
        folder: The folder of the run.
        settings: Text, numbers and truth values by name.
        step: The step from which the run goes on; 0 for a new one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = step + 1 if step else 0  # what an interrupted run wrote after its last state
        self.writer: Any = SummaryWriter(folder / "tensorboard" / "nfaug", purge_step=purged)
        self.writer.add_hparams(dict(settings), {})

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Add a row of the log."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Add a picture."""
        pixels = np.asarray(picture.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def finish(self) -> None:
        """Close the files."""
        self.writer.close()
