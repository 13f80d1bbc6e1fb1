"""Flows of the study, each trained once and kept in a folder: what they saw is in their letter."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from study_data import Source, training_images

import nfaug
from nfaug import Checkpoint
from nfaug.data.images import LabelledImages, TensorImages
from nfaug.training import TrainConfig, open_dataset, train
from nfaug.training.config import DataConfig, FlowSettings, PriorConfig

__all__ = ["FLOWS", "flow_for", "locked"]

FLOWS = {
    "u": "all training images, without labels",
    "l": "the labelled images alone",
    "o": "images of other classes (10,000 of CIFAR-10, in grey)",
}
# One standard gaussian for all images: no label is used, of whatever images.
_CONFIG = TrainConfig(
    batch_size=64,
    lr=1e-2,
    device="cpu",
    eval_every=1000,
    flow=FlowSettings(steps=(4, 4, 4), blocks=(1, 1, 1), width=(32, 32, 48), padded_size=(32, 32)),
    dataset=DataConfig(val_fraction=0.0),
    prior=PriorConfig(kind="single"),
)
_STEPS = {"u": 1876, "l": 250, "o": 1256}


def flow_for(
    letter: str, source: Source, labelled: TensorImages, seed: int, work: Path
) -> Checkpoint:
    """The flow of a letter, trained if `work` has it not yet; never more labels than `labelled`'s.

    Flow "l" belongs to the labelled images of one seed, the others to all seeds.
    """
    name = f"flow-{letter}"
    if letter == "l":
        name += f"-{source.name}-{len(labelled)}-{seed}"
    elif source.name != "fashion-mnist":
        name += f"-{source.name}"
    folder = work / name
    with locked(folder):
        if not (folder / "config.json").exists():
            images = _images(letter, source, labelled)
            epochs = max(1, round(_STEPS[letter] * _CONFIG.batch_size / len(images)))
            config = replace(_CONFIG, epochs=epochs, seed=seed if letter == "l" else 0)
            train(images, config, progress=False).checkpoint.save(folder)
    return nfaug.load(folder)


def _images(letter: str, source: Source, labelled: TensorImages) -> LabelledImages:
    if letter == "l":
        return labelled
    if letter == "u":
        return training_images(source)
    return open_dataset(source.other, image_size=labelled.image_size, channels=labelled.channels)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
