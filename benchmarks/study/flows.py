"""The flows of the study: trained once and kept in a folder, or loaded by name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

import nfaug
from nfaug import Checkpoint
from nfaug.augment.pixels import resize_levels
from nfaug.checkpoint.checkpoint import CheckpointConfig
from nfaug.data.images import LabelledImages, TensorImages, to_tensors
from nfaug.fitting import with_shape_of
from nfaug.training import TrainConfig, open_dataset, train
from nfaug.training.augmentation import FlowAugmentation
from nfaug.training.config import DataConfig, FlowSettings, OptimConfig, PriorConfig

from .data import DataSet, unlabelled_images
from .semi_supervised import fine_tuned

__all__ = ["FLOWS", "WITHOUT_FLOW", "FlowSource", "flow_for", "flow_sha", "locked"]


@dataclass(frozen=True)
class FlowSource:
    """Where a flow comes from: training on some images, or a name that `nfaug.load` takes.

    Attributes:
        title: The images that the flow saw, in a few words.
        detail: More about them, for the head of the report.
        steps: Optimiser steps.
        images: (data set, labelled images of the cell) -> training images of the flow.
        per_seed: Whether each seed has a flow of its own.
        load: Name of a flow that is loaded, such as "builtin:pixels".
        noise: Grey levels of gaussian noise on training images. Above 0, training starts from the
            flow of `load`.
        prior: Kind of the class gaussians in training; "single" uses no label.
        side: Side of the square that a loaded flow of any shape works on; 0 takes the images' own.
        semi: Fine-tune on labelled and unlabelled images (`semi_supervised.py`).
    """

    title: str
    detail: str = ""
    _: KW_ONLY
    steps: int = 0
    images: Callable[[DataSet, TensorImages], LabelledImages] | None = None
    per_seed: bool = False
    load: str = ""
    noise: float = 0.0
    prior: Literal["single", "fpi"] = "single"
    semi: bool = False
    side: int = 0


_LOADED = "builtin:{bundled}"


def _noisy(levels: float) -> FlowSource:
    return FlowSource(
        f"the bundled flow's images, again with noise of {levels:g}",
        "the bundled flow (for CIFAR-10 the earlier one), then trained on all training images, "
        "without labels, under gaussian noise of as many grey levels",
        steps=1500,
        images=lambda data, _: unlabelled_images(data),
        load=_LOADED,
        noise=levels,
    )


def _other_images(data: DataSet, labelled: TensorImages) -> LabelledImages:
    return open_dataset(data.other, image_size=labelled.image_size, channels=labelled.channels)


FLOWS = {
    "u": FlowSource(
        "all training images, without labels",
        steps=1876,
        images=lambda data, _: unlabelled_images(data),
    ),
    "l": FlowSource(
        "the labelled images alone", steps=250, images=lambda _, labelled: labelled, per_seed=True
    ),
    "o": FlowSource(
        "images of other classes",
        "for Fashion-MNIST 10,000 of CIFAR-10 in grey, for CIFAR-10 3,068 photographs of clothing",
        steps=1256,
        images=_other_images,
    ),
    "b": FlowSource(
        "the bundled flow's images",
        "all training images of Fashion-MNIST (grey) or CIFAR-10 (colour), without labels",
        load=_LOADED,
    ),
    "b1": FlowSource(
        "those of an earlier bundled flow",
        "all training images; for CIFAR-10 3.09 bits/dim, 0.44 million images",
    ),
    "r": FlowSource(
        "the bundled flow's images, for longer",
        "1.6 to 1.7 million images more: for CIFAR-10 after the earlier flow, then 2.95 bits/dim; "
        "for Fashion-MNIST after the bundled one, then 3.83",
    ),
    "n12": _noisy(12),
    "n24": _noisy(24),
    "c": FlowSource(
        "the bundled flow's images, then the labelled ones",
        "the labelled ones under class gaussians",
        steps=250,
        images=lambda _, labelled: labelled,
        per_seed=True,
        load=_LOADED,
        prior="fpi",
    ),
    "s": FlowSource(
        "the bundled flow's images, then the labelled ones and all others",
        "the labelled ones under class gaussians, all others under their mixture",
        steps=1000,
        images=lambda data, _: unlabelled_images(data),
        per_seed=True,
        load=_LOADED,
        semi=True,
    ),
    "p": FlowSource("nothing", "the identity in place of a flow", load="builtin:pixels"),
    "f": FlowSource("what the flow of --flow saw", load="{given}"),
    "p32": FlowSource(
        "nothing, on 32 pixels",
        "the identity in place of a flow, with all finer detail kept",
        load="builtin:pixels",
        side=32,
    ),
}
WITHOUT_FLOW = ("p", "p32")
_FINE_TUNING_LR = 5e-3
_BUNDLED = {1: "fashion-mnist", 3: "rgb32"}  # by number of channels
# One standard gaussian for all images: no label is used.
_CONFIG = TrainConfig(
    batch_size=64,
    lr=1e-2,
    device="cpu",
    eval_every=1000,
    flow=FlowSettings(steps=(4, 4, 4), blocks=(1, 1, 1), width=(32, 32, 48), padded_size=(32, 32)),
    dataset=DataConfig(val_fraction=0.0),
    prior=PriorConfig(kind="single"),
)


def flow_for(name: str, data: DataSet, labelled: TensorImages, seed: int, work: Path) -> Checkpoint:
    """The flow of `FLOWS[name]`: loaded, or trained if `work` does not hold it yet.

    Training uses no label, but for a prior of class gaussians. The folder of a trained flow names
    its training images and the weights that it started from, by a hash.

    Raises:
        ValueError: The flow is an earlier one, of which only the results are kept.
    """
    kind = FLOWS[name]
    if not kind.load and kind.images is None:
        raise ValueError(f"the flow {name!r} ({kind.title}) is not kept: only its rows are")
    start = None
    if kind.load:
        start = nfaug.load(kind.load.format(bundled=_BUNDLED[labelled.channels], given=data.flow))
    if kind.images is None:
        assert start is not None
        if kind.side:
            small = resize_levels(labelled.images[:1], (kind.side, kind.side))
            labelled = TensorImages(small, labelled.targets[:1], labelled.classes)
        return with_shape_of(start, labelled)
    images = kind.images(data, labelled)
    made_from = [images.fingerprint(), str((labelled.channels, *labelled.image_size))]
    made_from += [labelled.fingerprint()] if kind.semi else []
    made_from += [] if start is None else [flow_sha(start)]
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]
    own = f"-{seed}" if kind.per_seed else ""
    folder = work / f"flow-{name}-{data.name}{own}-{digest}"
    with locked(folder):
        if not (folder / "config.json").exists():
            if kind.semi:
                assert start is not None
                pixels = to_tensors(images, progress=False)[0]
                flow = fine_tuned(start.flow, labelled, pixels, steps=kind.steps, seed=seed)
                Checkpoint(flow, CheckpointConfig(flow.config)).save(folder)
                return nfaug.load(folder)
            epochs = max(1, round(kind.steps * _CONFIG.batch_size / len(images)))
            config = replace(
                _CONFIG,
                epochs=epochs,
                seed=seed if kind.per_seed else 0,
                prior=PriorConfig(kind=kind.prior),
                augmentation=FlowAugmentation(noise=kind.noise),
                optim=OptimConfig(bf16=kind.noise > 0),
                lr=_CONFIG.lr if start is None else _FINE_TUNING_LR,
            )
            train(images, config, init=start, progress=False).checkpoint.save(folder)
    return nfaug.load(folder)


def flow_sha(checkpoint: Checkpoint) -> str:
    """Eight hexadecimal digits of the SHA-256 of a flow's configuration and weights."""
    digest = hashlib.sha256(repr(checkpoint.flow.config).encode())
    for name, value in sorted(checkpoint.flow.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, so that one process at a time makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
