"""The fixed context of a run (settings, images, classes and processes), and its result."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nfaug.augment.params import seed_of
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.batches import Batches, MemoryBatches, open_batches
from nfaug.data.checks import check_class_names, check_class_sizes
from nfaug.data.images import LabelledImages
from nfaug.data.open import wrap_dataset
from nfaug.fitting import check_images
from nfaug.flows.codec import Codec
from nfaug.flows.flow import Flow, FlowConfig
from nfaug.flows.latent_codec import LatentCodec

from ..config import TrainConfig
from .distributed import Processes, draw_noise
from .latent_cache import flow_shape, with_latents
from .optimizer import FlowOptimizer
from .prior import check_prior, solve_prior
from .snapshots import RunState, Snapshot

__all__ = ["RunContext", "TrainResult", "hold_out", "open_context"]

_INIT_IMAGES = 512  # images for the data-dependent initialisation
_MIN_SPLIT = 20  # smaller classes hold nothing out


@dataclass
class TrainResult:
    """A trained checkpoint and its training history.

    Attributes:
        checkpoint: Averaged flow weights, class gaussians and PCA. With several processes only the
            main one fits PCA.
        history: One row per evaluation, as in `log.csv`.
        loss: Bits per dimension of every step that was not skipped.
        initial: The flow after its data-dependent initialisation (or as passed in `init`), with the
            gaussians solved on it.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    initial: Checkpoint | None = None


@dataclass
class RunContext:
    """A run's settings, images and processes.

    Attributes:
        config: The settings.
        processes: The processes that share the run.
        dataset: All images.
        classes: Class names; empty if the prior has a single gaussian.
        data: Batches to train on.
        val: Batches to evaluate on, or None.
        noise: The noise generator in its state before the run's first draw.
        choice: The CPU generator in its state before the run's first draw.
        codec: The autoencoder whose latents the flow models; None for pixels.
        progress: Whether to report progress.
    """

    config: TrainConfig
    processes: Processes
    dataset: LabelledImages
    classes: Sequence[str]
    data: Batches
    val: Batches | None
    noise: torch.Generator
    choice: torch.Generator
    codec: LatentCodec | None
    progress: bool

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the last and possibly smaller one included."""
        return math.ceil(len(self.data.labels) / self.config.batch_size)

    @property
    def shown(self) -> bool:
        """Whether this process reports progress."""
        return self.progress and self.processes.main

    def shape(self) -> tuple[FlowConfig, Codec | None]:
        """The flow's configuration and codec for these settings and images."""
        return flow_shape(self.dataset, self.config, self.codec)

    def new_flow(self) -> Flow:
        """Create a flow from the seed and initialise it on some of the images."""
        # Modules draw their weights from the global generator. Seed only the CPU's, and restore it
        # afterwards: torch.manual_seed would also reseed the GPUs'.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            shape, codec = self.shape()
            flow = Flow(shape, codec=codec)
        flow = flow.to(self.processes.device)
        order = torch.randperm(len(self.data.labels), generator=self.choice)[:_INIT_IMAGES]
        augmentation = self.config.augmentation
        drawn = augmentation.draw(len(order), generator=self.noise) if augmentation.enabled else {}
        noise = draw_noise(flow, len(order), self.noise, augmentation.noise)
        if self.processes.main:
            images = torch.cat([batch for batch, _ in self.data.iterate(order, _INIT_IMAGES)])
            images = images.to(self.processes.device)
            if augmentation.enabled:  # else pixels that vary only by shifts get huge scales
                images = augmentation.apply(images, drawn)
            prepared = flow.codec.prepare(images)
            flow.initialize(flow.codec.dequantize(prepared, noise))
        self.processes.broadcast([*flow.parameters(), *flow.buffers()])
        return flow

    def start(self, flow: Flow) -> RunState:
        """Solve the gaussians on a flow and return the state of a new run."""
        flow = self._trainable(flow)
        gaussians, prior = self.solve(flow, self.noise, self.choice)
        return RunState(FlowOptimizer(flow, self.config), gaussians, prior, self.noise, self.choice)

    def resume(self, flow: Flow, snapshot: Snapshot) -> RunState:
        """Return the state of a resumed run; `flow` gives the shape."""
        placeholder = ClassGaussians(torch.zeros(1, 1), torch.ones(1, 1))
        optimizer = FlowOptimizer(self._trainable(flow), self.config)
        state = RunState(optimizer, placeholder, {}, self.noise, self.choice)
        state.restore(snapshot)
        return state

    def _trainable(self, flow: Flow) -> Flow:
        flow = copy.deepcopy(flow).to(self.processes.device).train()
        flow.recompute = self.config.optim.recompute
        flow.bf16 = self.config.optim.bf16
        return flow

    def solve(
        self, flow: Flow, noise: torch.Generator, choice: torch.Generator
    ) -> tuple[ClassGaussians, dict[str, Any]]:
        """Solve the class gaussians on a flow; also return a record of the solve."""
        gaussians, record = solve_prior(
            self.config.prior,
            flow,
            self.data,
            self.dataset.classes,
            batch_size=self.config.batch_size,
            generator=noise,
            choice=choice,
            progress=self.shown,
            processes=self.processes,
        )
        return gaussians.to(self.processes.device), record

    def checkpoint(self, flow: Flow, state: RunState, **records: Any) -> Checkpoint:
        """A checkpoint of a flow and the state's gaussians; `records` go into its configuration."""
        config = CheckpointConfig(
            flow=flow.config,
            class_names=tuple(self.classes),
            preprocessing=dict(self.dataset.preprocessing),
            gaussians=state.prior,
            autoencoder=flow.codec.record,
            **records,
        )
        return Checkpoint(flow, config, state.gaussians)


def open_context(
    images: LabelledImages,
    config: TrainConfig,
    processes: Processes,
    codec: Codec | None = None,
    *,
    val: Dataset[Any] | None = None,
    progress: bool = True,
) -> RunContext:
    """Check the images, read those that fit in memory, and hold some out.

    If `codec` is a `LatentCodec`, the latents are computed here, see `latent_cache.with_latents`.

    Raises:
        ValueError: If the images cannot be trained on with these settings.
    """
    if config.batch_size < processes.count:
        raise ValueError(
            f"batch_size {config.batch_size} is the batch of all processes together and must be at "
            f"least their number, {processes.count}"
        )
    check_prior(config.prior, len(images.classes))
    classes: Sequence[str] = images.classes if config.prior.entry.labelled else ()
    if classes:
        check_class_sizes(images.targets, classes)
    choice = torch.Generator().manual_seed(config.seed)
    context = RunContext(
        config=config,
        processes=processes,
        dataset=images,
        classes=classes,
        data=MemoryBatches(torch.empty(0), torch.empty(0)),
        val=None,
        noise=torch.Generator(processes.device).manual_seed(config.seed),
        choice=choice,
        codec=codec if isinstance(codec, LatentCodec) else None,
        progress=progress,
    )
    shape, flow_codec = context.shape()  # fail before reading the images
    if val is not None:
        held = wrap_dataset(val, classes=images.classes, complete=False)
        check_class_names(held.classes, images.classes)
        with torch.device("meta"):
            check_images(Flow(shape, codec=flow_codec), held)
        held_out = _read(held, context, mirrored=False)
        return replace(context, data=_read(images, context), val=held_out)
    data = _read(images, context)
    rows, others = hold_out(data.labels, len(images.classes), config.dataset.val_fraction, choice)
    subset = data.subset(others) if len(others) else None
    return replace(context, data=data.subset(rows), val=subset)


def hold_out(
    labels: Tensor, num_classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split rows at random into those to train on and a share of each class to evaluate on.

    A class of fewer than 20 images holds none out; every class keeps at least two.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for y in range(num_classes):
        rows = (labels == y).nonzero().flatten()
        number = min(int(len(rows) * share), len(rows) - 2) if len(rows) >= _MIN_SPLIT else 0
        held[rows[torch.randperm(len(rows), generator=generator)[:number]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _read(images: LabelledImages, context: RunContext, *, mirrored: bool = True) -> Batches:
    config, shown = context.config, context.shown
    data = open_batches(
        images,
        memory_gib=config.dataset.memory_gib,
        workers=config.dataset.workers,
        progress=shown,
        seed=seed_of(config.seed, context.processes.rank),
    )
    device = context.processes.device
    return with_latents(data, context.codec, config, device, mirrored=mirrored, progress=shown)
