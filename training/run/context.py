"""What a run works with and does not change: settings, images, classes, processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...checkpoint.checkpoint import Checkpoint, CheckpointConfig
from ...data.batches import Batches, MemoryBatches, open_batches
from ...data.checks import check_class_names, check_class_sizes
from ...data.images import LabelledImages
from ...data.open import wrap_dataset
from ...fitting import check_images
from ...flows.codec import Codec
from ...flows.flow import Flow, FlowConfig
from ...flows.latent_codec import LatentCodec
from ...gaussians.gaussians import ClassGaussians
from ..config import TrainConfig
from .latent_cache import flow_shape, with_latents
from .optimizer import FlowOptimizer
from .prior import check_prior, solve_prior
from .processes import Processes
from .shares import draw_noise
from .state import RunState, Snapshot

__all__ = ["Setup", "hold_out", "open_setup"]

_INIT_IMAGES = 512  # images that the data-dependent initialisation sees
_LEAST_SPLIT = 20  # smaller classes keep all their images


@dataclass
class Setup:
    """A run's settings, its images and who works on them.

    Attributes:
        classes: their names; none where the prior does not tell classes apart.
        data, val: the images to train on, and those to measure on if there are any.
        noise, choice: the generators as they are before the first draw of the run itself.
        codec: the autoencoder on whose latents the flow works; None for pixels.
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
        """Batches of an epoch, the last one as small as it is."""
        return math.ceil(len(self.data.labels) / self.config.batch_size)

    @property
    def shown(self) -> bool:
        """Whether this process shows bars."""
        return self.progress and self.processes.main

    def flow_config(self) -> FlowConfig:
        """The shape that settings and images ask for."""
        return self._shape()[0]

    def _shape(self) -> tuple[FlowConfig, Codec | None]:
        return flow_shape(self.dataset, self.config, self.codec)

    def new_flow(self) -> Flow:
        """A flow with the seed's weights, initialised on some of the images."""
        # Weights come from the global generator, as everywhere in torch; the caller's stays as it
        # is, and so do those of GPUs, which torch.manual_seed would seed too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            shape, codec = self._shape()
            flow = Flow(shape, codec=codec)
        flow = flow.to(self.processes.device)
        order = torch.randperm(len(self.data.labels), generator=self.choice)[:_INIT_IMAGES]
        augmentation = self.config.augmentation
        drawn = augmentation.draw(len(order), generator=self.noise) if augmentation.enabled else {}
        noise = draw_noise(flow, len(order), self.noise, augmentation.noise)
        if self.processes.main:
            images = torch.cat([batch for batch, _ in self.data.iterate(order, _INIT_IMAGES)])
            images = images.to(self.processes.device)
            if augmentation.enabled:  # a pixel that only shifts make vary would get a huge scale
                images = augmentation.apply(images, drawn)
            prepared = flow.codec.prepare(images)
            flow.initialize(flow.codec.dequantize(prepared, noise))
        self.processes.broadcast([*flow.parameters(), *flow.buffers()])
        return flow

    def start(self, flow: Flow) -> RunState:
        """The state of a run that begins with this flow, its gaussians solved."""
        flow = copy.deepcopy(flow).to(self.processes.device).train()
        flow.recompute = self.config.optim.recompute
        gaussians, prior = self.solve(flow, self.noise, self.choice)
        optimizer = FlowOptimizer(flow, self.config)
        return RunState(optimizer, gaussians, prior, self.noise, self.choice)

    def resume(self, flow: Flow, snapshot: Snapshot) -> RunState:
        """The state of a run that goes on; `flow` has its shape."""
        flow = copy.deepcopy(flow).to(self.processes.device).train()
        flow.recompute = self.config.optim.recompute
        placeholder = ClassGaussians(torch.zeros(1, 1), torch.ones(1, 1))
        optimizer = FlowOptimizer(flow, self.config)
        state = RunState(optimizer, placeholder, {}, self.noise, self.choice)
        state.restore(snapshot)
        return state

    def solve(
        self, flow: Flow, noise: torch.Generator, choice: torch.Generator
    ) -> tuple[ClassGaussians, dict[str, Any]]:
        """The class gaussians under a flow, on the device, and how they were found."""
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
        """A flow with the state's gaussians, to be saved; `records` go into its configuration."""
        config = CheckpointConfig(
            flow=flow.config,
            class_names=tuple(self.classes),
            preprocessing=dict(self.dataset.preprocessing),
            gaussians=state.prior,
            autoencoder=flow.codec.record,
            **records,
        )
        return Checkpoint(flow, config, state.gaussians)


def open_setup(
    images: LabelledImages,
    config: TrainConfig,
    processes: Processes,
    codec: Codec | None = None,
    *,
    val: Dataset[Any] | None = None,
    progress: bool = True,
) -> Setup:
    """Check the images, read those that fit in memory, and hold some out.

    With a `codec` of latents these are computed now, as `latents.with_latents` does it.

    Raises:
        ValueError: they cannot be trained on with these settings.
    """
    if config.batch_size < processes.count:
        raise ValueError(
            f"batch_size is the batch of all processes together: {config.batch_size} images cannot "
            f"be shared among {processes.count}"
        )
    check_prior(config.prior, len(images.classes))
    classes: Sequence[str] = images.classes if config.prior.entry.labelled else ()
    if classes:
        check_class_sizes(images.targets, classes)
    choice = torch.Generator().manual_seed(config.seed)
    setup = Setup(
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
    shape, of_flow = setup._shape()  # before images are read in vain
    if val is not None:
        held = wrap_dataset(val, classes=images.classes, complete=False)
        check_class_names(held.classes, images.classes)
        with torch.device("meta"):
            check_images(Flow(shape, codec=of_flow), held)
        measured = _read(held, setup, mirrored=False)
        return replace(setup, data=_read(images, setup), val=measured)
    data = _read(images, setup)
    rows, others = hold_out(data.labels, len(images.classes), config.dataset.val_fraction, choice)
    held_out = data.subset(others) if len(others) else None
    return replace(setup, data=data.subset(rows), val=held_out)


def hold_out(
    labels: Tensor, num_classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to measure on, a share of each class drawn at random.

    A class of fewer than 20 images keeps all, and every class at least two.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for y in range(num_classes):
        rows = (labels == y).nonzero().flatten()
        number = min(int(len(rows) * share), len(rows) - 2) if len(rows) >= _LEAST_SPLIT else 0
        held[rows[torch.randperm(len(rows), generator=generator)[:number]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _read(images: LabelledImages, setup: Setup, *, mirrored: bool = True) -> Batches:
    config, shown = setup.config, setup.shown
    data = open_batches(
        images,
        memory_gib=config.dataset.memory_gib,
        workers=config.dataset.workers,
        progress=shown,
    )
    device = setup.processes.device
    return with_latents(data, setup.codec, config, device, mirrored=mirrored, progress=shown)
