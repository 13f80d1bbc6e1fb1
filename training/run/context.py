"""The fixed context of a run (settings, images, classes and processes), and its result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nfaug.augment.params import seed_of
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.batches import Batches, MemoryBatches, open_batches, progress_bar
from nfaug.data.classes import check_class_names, check_class_sizes
from nfaug.data.images import LabelledImages
from nfaug.data.open import wrap_dataset
from nfaug.flows.codec import Codec
from nfaug.flows.flow import Flow, FlowConfig
from nfaug.flows.latent_codec import LatentCodec, measure_codec

from ..config import TrainConfig, flat
from .distributed import Processes, draw_noise
from .optimizer import FlowOptimizer
from .prior import check_prior, class_statistics, representative
from .snapshots import RunState, Snapshot

__all__ = ["RunContext", "TrainResult", "hold_out", "open_context"]

_INIT_IMAGES = 512  # images for the data-dependent initialisation
_MEASURED = 512  # images on which the scale of an autoencoder's latents is measured
_ENCODED = 64  # images that an autoencoder encodes at a time
_MIN_SPLIT = 20  # smaller classes hold nothing out


@dataclass
class TrainResult:
    """A trained checkpoint and its training history.

    Attributes:
        checkpoint: Averaged flow weights, class gaussians and PCA. With several processes only the
            main one fits PCA.
        history: One row per evaluation, as in `log.csv`.
        loss: Bits per dimension of every step that was not skipped.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


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
        backbone = self.config.flow
        if self.codec is None:
            return FlowConfig(self.dataset.channels, self.dataset.image_size, backbone), None
        channels, height, width = self.codec.latent_shape
        shape = FlowConfig(channels, (height, width), backbone)
        return shape, self.codec.for_flow(shape)

    def fixed(self) -> Mapping[str, Any]:
        """What a resumed run must keep: what decides which numbers a step reads and draws."""
        settings = flat(self.config.to_dict())
        names = ("seed", "batch_size", "prior.kind", "latent_noise")
        return {
            **{name: settings[name] for name in names},
            **flat({"flow": self.shape()[0].to_dict()}),
            "images to train on": len(self.data.labels),
            "--data": self.dataset.fingerprint(),
            "device": self.processes.device.type,  # generators of GPUs have other states
        }

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
        drawn = augmentation.draw(len(order), self.noise)
        noise = draw_noise(flow, len(order), self.noise, augmentation.noise)
        if self.processes.main:
            images = torch.cat([batch for batch, _ in self.data.iterate(order, _INIT_IMAGES)])
            images = images.to(self.processes.device)
            # Without augmentation, pixels that vary only by shifts would get huge scales.
            prepared = flow.codec.prepare(augmentation.apply(images, drawn))
            flow.initialize(flow.codec.dequantize(prepared, noise))
            flow.clip_()  # a bound below that of new scalars would grow to it on loading
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
        # From its weights, as a resumed run reads it: they decide the lengths of its series.
        weights = {name: value.clone() for name, value in flow.state_dict().items()}
        flow = Flow.from_tensors(flow.config, weights, flow.codec)
        flow = flow.to(self.processes.device).train()
        optim = self.config.optim
        flow.configure_training(recompute=optim.recompute, bf16=optim.bf16)
        return flow

    def solve(
        self, flow: Flow, noise: torch.Generator, choice: torch.Generator
    ) -> tuple[ClassGaussians, dict[str, Any]]:
        """Solve the class gaussians on a flow; also return a record of the solve.

        `noise` draws the dequantisation noise of the images that the prior encodes, `choice` these
        images and random means.

        Raises:
            FixedPointDivergence: If a gaussian leaves the range of positive finite numbers.
        """
        config, labels, classes = self.config.prior, self.data.labels, self.dataset.classes
        prior, counts, number = config.entry, None, 1
        if prior.labelled:
            counts, number = torch.bincount(labels, minlength=len(classes)), len(classes)
        means = torch.zeros(number, flow.config.dim)
        variances = torch.ones_like(means)
        if prior.needs_latents:
            stats = class_statistics(
                flow,
                self.data,
                representative(labels, len(classes), config.statistics_images, choice),
                len(classes),
                batch_size=self.config.batch_size,
                generator=noise,
                progress=self.shown,
                processes=self.processes,
            )
            _, means, variances = stats.finalize()
        means, variances, outcome = prior.solve(means, variances, config.settings, choice)
        gaussians = ClassGaussians(means, variances, counts).to(self.processes.device)
        self.processes.broadcast(gaussians.buffers())  # machines may round differently
        return gaussians, {"kind": config.kind, **outcome}

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
    start: Flow | None = None,
    *,
    val: Dataset[Any] | None = None,
    progress: bool = True,
) -> RunContext:
    """Check the images, read those that fit in memory, and hold some out.

    A flow on an autoencoder's latents gets them here, computed once. Their scale is that of the
    flow `start`, or is measured.

    Raises:
        ValueError: If the images cannot be trained on with these settings.
    """
    check_prior(config.prior, len(images.classes))
    classes: Sequence[str] = images.classes if config.prior.entry.labelled else ()
    if classes:
        check_class_sizes(images.targets, classes)
    codec = _measured(images, config, processes.device) if start is None else start.codec
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
    context.shape()  # settings that do not fit fail before the images are read
    if val is not None:
        held = wrap_dataset(val, classes=images.classes)
        check_class_names(held.classes, images.classes)
        expected, found = ((each.channels, *each.image_size) for each in (images, held))
        if expected != found:
            raise ValueError(
                f"images to evaluate on have the shape {found} (channels, height, width), images "
                f"to train on {expected}"
            )
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
    """Batches of images, or of their latents if there is an autoencoder."""
    config = context.config
    data = open_batches(
        images,
        memory_gib=config.dataset.memory_gib,
        workers=config.dataset.workers,
        progress=context.shown,
        seed=seed_of(config.seed, context.processes.rank),
    )
    return data if context.codec is None else _latents(data, context, mirrored=mirrored)


def _measured(
    images: LabelledImages, config: TrainConfig, device: torch.device
) -> LatentCodec | None:
    """The autoencoder of the settings with the scale of its latents; None for pixels."""
    if config.autoencoder is None:
        return None
    choice = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(images), generator=choice)[:_MEASURED]
    chosen = torch.stack([images.image(row) for row in rows.tolist()])
    return measure_codec(config.autoencoder, chosen, noise=config.latent_noise, device=device)


def _latents(data: Batches, context: RunContext, *, mirrored: bool) -> Batches:
    """Encode images once, since an autoencoder costs an order of magnitude more than the flow.

    Latents (N, views, C, H, W) are kept as float16, whose rounding is below the noise. With
    `mirrored` and `augmentation.hflip` the second view is the mirror image's latents, which differ
    from the mirrored latents; `FlowAugmentation` draws one of the views.

    Raises:
        ValueError: If an augmentation cannot apply to latents.
    """
    codec, augmentation = context.codec, context.config.augmentation
    assert codec is not None
    if augmentation.pad_crop:
        raise ValueError(
            "latents are computed once and cannot be shifted: set augmentation.pad_crop to 0; got "
            f"{augmentation.pad_crop}"
        )
    count, views = len(data.labels), 1 + (mirrored and augmentation.hflip)
    latents = torch.empty((count, views, *codec.latent_shape), dtype=torch.float16)
    done = 0
    with progress_bar(count, "latents", "image", shown=context.shown) as bar:
        for images, _ in data.iterate(torch.arange(count), _ENCODED):
            batch = images.to(context.processes.device)
            part = slice(done, done + len(batch))
            for view in range(views):
                encoded = codec.prepare(batch.flip(-1) if view else batch)
                latents[part, view] = encoded.to("cpu", torch.float16)
            done = part.stop
            bar.update(len(batch))
    return MemoryBatches(latents, data.labels)
