"""The fixed context of a run (settings, images, classes and processes), and its result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from .config import TrainConfig, flat
from .distributed import Processes, draw_noise
from .metrics import class_statistics
from .optimizer import FlowOptimizer
from .snapshots import RunState, Snapshot

__all__ = ["RunContext", "TrainResult", "hold_out", "open_context"]

_INIT_IMAGES = 512  # images for the data-dependent initialisation, or the scale of latents
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
        noise: The noise generator in its state before the run's first draw.
        choice: The CPU generator in its state before the run's first draw.
        codec: The autoencoder whose latents the flow models; None for pixels.
        shown: Whether this process reports progress.
        data: Batches to train on.
        val: Batches to evaluate on, or None.
    """

    config: TrainConfig
    processes: Processes
    dataset: LabelledImages
    classes: Sequence[str]
    noise: torch.Generator
    choice: torch.Generator
    codec: LatentCodec | None
    shown: bool
    data: Batches = field(init=False)
    val: Batches | None = field(default=None, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the last and possibly smaller one included."""
        return math.ceil(len(self.data.labels) / self.config.batch_size)

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
        optimizer = FlowOptimizer(self._trainable(flow), self.config)
        gaussians = ClassGaussians(torch.zeros(1, 1), torch.ones(1, 1))  # for those of the snapshot
        state = RunState(optimizer, gaussians, {}, self.noise, self.choice)
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
        means, variances = torch.zeros(number, flow.config.dim), torch.ones(number, flow.config.dim)
        if prior.needs_latents:
            stats = class_statistics(
                flow,
                self.data,
                _representative(labels, len(classes), config.statistics_images, choice),
                len(classes),
                batch_size=self.config.batch_size,
                generator=noise,
                processes=self.processes,
                progress=self.shown,
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
    entry, several = config.prior.entry, len(images.classes)
    if several < entry.min_classes:
        raise ValueError(
            f"prior.kind {config.prior.kind!r} needs at least {entry.min_classes} classes, the "
            f"data have {several}; set prior.kind to 'single'"
        )
    classes: Sequence[str] = images.classes if entry.labelled else ()
    if classes:
        check_class_sizes(images.targets, classes)
    codec = None if start is None else start.codec
    if start is None and config.autoencoder is not None:
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
        chosen = torch.stack([images.image(row) for row in rows[:_INIT_IMAGES].tolist()])
        codec = measure_codec(
            config.autoencoder, chosen, noise=config.latent_noise, device=processes.device
        )
    noise = torch.Generator(processes.device).manual_seed(config.seed)
    choice = torch.Generator().manual_seed(config.seed)
    latents, shown = codec if isinstance(codec, LatentCodec) else None, progress and processes.main
    context = RunContext(config, processes, images, classes, noise, choice, latents, shown)
    context.shape()  # settings that do not fit fail before the images are read
    if val is not None:
        held = wrap_dataset(val, classes=images.classes)
        check_class_names(held.classes, images.classes)
        shapes = [(data.channels, *data.image_size) for data in (images, held)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"images to train on are {shapes[0]} and those of val {shapes[1]}")
        context.val, context.data = _read(held, context, mirrored=False), _read(images, context)
        return context
    rows, others = hold_out(images.targets, several, config.dataset.val_fraction, choice)
    if len(others):
        context.val = _read(images.subset(others), context, mirrored=False)
        images = images.subset(rows)
    context.data = _read(images, context)
    return context


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


def _representative(
    labels: Tensor, num_classes: int, most: int, generator: torch.Generator
) -> Tensor:
    """Indices of at most `most` random images, plus as many as give every class two."""
    order = torch.randperm(len(labels), generator=generator)[:most]
    chosen = torch.bincount(labels[order], minlength=num_classes)
    for y in (chosen < 2).nonzero().flatten().tolist():
        rows = (labels == y).nonzero().flatten()
        order = torch.cat([order, rows[~torch.isin(rows, order)][: 2 - int(chosen[y])]])
    return order


def _read(images: LabelledImages, context: RunContext, *, mirrored: bool = True) -> Batches:
    """Batches of images, or of their latents if there is an autoencoder.

    Images are encoded once, since an autoencoder costs an order of magnitude more than the flow.
    Latents (N, views, C, H, W) are kept as float16, whose rounding is below the noise. With
    `mirrored` and `augmentation.hflip` the second view is the mirror image's latents, which differ
    from the mirrored latents; `FlowAugmentation` draws one of the views.

    Raises:
        ValueError: If an augmentation cannot apply to latents.
    """
    config, codec = context.config, context.codec
    if codec is not None and config.augmentation.pad_crop:
        raise ValueError(
            "latents are computed once and cannot be shifted: set augmentation.pad_crop to 0; got "
            f"{config.augmentation.pad_crop}"
        )
    data = open_batches(
        images,
        memory_gib=config.dataset.memory_gib,
        workers=config.dataset.workers,
        progress=context.shown,
        seed=seed_of(config.seed, context.processes.rank),
    )
    if codec is None:
        return data
    count, views, done = len(data.labels), 1 + (mirrored and config.augmentation.hflip), 0
    latents = torch.empty((count, views, *codec.latent_shape), dtype=torch.float16)
    with progress_bar(count, "latents", "image", shown=context.shown) as bar:
        for batch, _ in data.iterate(torch.arange(count), _ENCODED):
            batch = batch.to(context.processes.device)
            for view in range(views):
                encoded = codec.prepare(batch.flip(-1) if view else batch)
                latents[done : done + len(batch), view] = encoded.to("cpu", torch.float16)
            done += len(batch)
            bar.update(len(batch))
    return MemoryBatches(latents, data.labels)
