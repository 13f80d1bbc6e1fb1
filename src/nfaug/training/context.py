"""What a run reads and draws from (settings, images, classes and processes), and its result."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nfaug.checkpoint.autoencoder import open_codec
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.classes.gaussians import ClassGaussians
from nfaug.classes.priors import PriorConfig
from nfaug.data.batches import LabelledBatches, batches, decode, in_memory
from nfaug.data.classes import check_class_sizes
from nfaug.data.images import Images
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.latent_codec import LatentCodec
from nfaug.io.facts import Facts
from nfaug.io.progress import progress_bar
from nfaug.run.ranks import Ranks
from nfaug.run.seeds import seed_of

from .config import TrainConfig, flat
from .distributed import draw_noise
from .latents import check_augmentation, latents_of
from .metrics import class_statistics
from .optimizer import FlowOptimizer
from .snapshots import RunState, Snapshot

_INIT_IMAGES = 512  # images for the data-dependent initialisation, or the scale of latents


@dataclass
class TrainResult:
    """A trained checkpoint and its training history.

    Attributes:
        checkpoint: Averaged flow weights, class Gaussians, axes and memory. With several processes
            only that of the main one has axes and memory.
        history: One row per evaluation, as in `log.csv`.
        loss: Bits per dimension of every step that was not skipped.

    Example:
        >>> from nfaug import open_dataset
        >>> from nfaug.training import TrainConfig, train
        >>> digits = open_dataset("digits", per_class=10)
        >>> result = train(digits, config=TrainConfig(epochs=1), progress=False)
        >>> len(result.loss), len(result.history)
        (1, 1)
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass
class RunContext:
    """A run's settings, images and processes.

    Attributes:
        config: The settings.
        ranks: The processes that share the run.
        dataset: All images.
        classes: Class names; empty if the prior has a single Gaussian.
        noise_rng: The noise generator in its state before the run's first draw.
        choice_rng: The CPU generator in its state before the run's first draw.
        flow_config: The flow's configuration for these settings and images.
        codec: The autoencoder whose latents the flow models; None for pixels.
        shown: Whether this process reports progress.
        data: Batches to train on.
        test: Batches to evaluate on, or None.
    """

    config: TrainConfig
    ranks: Ranks
    dataset: Images
    classes: Sequence[str]
    noise_rng: torch.Generator
    choice_rng: torch.Generator
    flow_config: FlowConfig
    codec: LatentCodec | None
    shown: bool
    data: LabelledBatches
    test: LabelledBatches | None

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, the last and possibly smaller one included."""
        return math.ceil(len(self.data.targets) / self.config.batch_size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the images."""
        return self.dataset.fingerprint(progress=self.shown)

    def fixed(self) -> Facts:
        """The facts by which a step reads and draws the same numbers; a resumed run keeps them."""
        settings = flat(self.config.to_dict())
        fixed: dict[str, Any] = {}
        for name in ("seed", "batch_size", "prior.kind", "latent_noise"):
            fixed[name] = settings[name]
        fixed |= flat({"flow": self.flow_config.to_dict()})
        fixed["images to train on"] = len(self.data.targets)
        fixed["--data"] = self.dataset.fingerprint(len(self.dataset), progress=self.shown)
        fixed["device"] = self.ranks.device.type  # generators of GPUs have other states
        return Facts(fixed)

    def new_flow(self) -> Flow:
        """Create a flow from the seed and initialise it on some of the images."""
        # Modules draw their weights from the global generator. Seed only the CPU's, and restore it
        # afterwards: torch.manual_seed would also reseed the GPUs'.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            flow = Flow(self.flow_config, codec=self.codec)
        flow = flow.to(self.ranks.device)
        order = torch.randperm(len(self.data.targets), generator=self.choice_rng)[:_INIT_IMAGES]
        augmentation = self.config.augmentation
        draws = augmentation.draw(len(order), self.noise_rng)
        noise = draw_noise(flow, len(order), self.noise_rng, augmentation.noise)
        if self.ranks.main:
            parts = order.split(self.config.batch_size)
            read = []
            with progress_bar(len(order), "images to start from", "image", shown=self.shown) as bar:
                for batch in batches(self.data, parts):
                    read.append(batch.images)
                    bar.update(len(batch.labels))
            images = torch.cat(read).to(self.ranks.device)
            # Without augmentation, pixels that vary only by shifts would get huge scales.
            prepared = flow.codec.prepare(augmentation.apply(images, draws))
            flow.initialize(flow.codec.dequantize(prepared, noise), progress=self.shown)
            # New scalars may exceed the bound of the settings; a flow that is loaded with such
            # scalars would raise its bound to them.
            flow.clip_()
        self.ranks.broadcast(flow.parameters())
        self.ranks.broadcast(flow.buffers())
        return flow

    def start(self, flow: Flow) -> RunState:
        """Find the first Gaussians on a flow and return the state of a new run."""
        flow = self._trainable(flow)
        gaussians, prior = self.solve(
            self.config.prior.first, flow, self.noise_rng, self.choice_rng
        )
        optimizer = self._optimizer(flow)
        return RunState(optimizer, gaussians, prior, self.noise_rng, self.choice_rng)

    def resume(self, flow: Flow, snapshot: Snapshot) -> RunState:
        """Return the state of a resumed run; `flow` gives the shape."""
        optimizer = self._optimizer(self._trainable(flow))
        gaussians = ClassGaussians(torch.zeros(1, 1), torch.ones(1, 1))  # for those of the snapshot
        state = RunState(optimizer, gaussians, {}, self.noise_rng, self.choice_rng)
        state.restore(snapshot)
        return state

    def _optimizer(self, flow: Flow) -> FlowOptimizer:
        # The first optimiser of a process takes seconds, in which torch imports its compiler.
        with progress_bar(None, "making the optimiser", shown=self.shown):
            return FlowOptimizer(flow, self.config)

    def _trainable(self, flow: Flow) -> Flow:
        # Rebuilt from its weights, as in a resumed run: while they are loaded, couplings set the
        # numbers of terms of their series.
        weights = {name: value.clone() for name, value in flow.state_dict().items()}
        flow = Flow.from_tensors(flow.config, weights, flow.codec)
        flow = flow.to(self.ranks.device).train()
        optim = self.config.optim
        flow.configure_training(recompute=optim.recompute, bf16=optim.bf16)
        return flow

    def solve(
        self, config: PriorConfig, flow: Flow, noise: torch.Generator, choice: torch.Generator
    ) -> tuple[ClassGaussians, dict[str, Any]]:
        """Find the class Gaussians of a prior on a flow; also return a record of the solve.

        `noise` draws the dequantisation noise of the images that the prior encodes, `choice` these
        images and random means.

        Raises:
            FixedPointDivergence: If a Gaussian leaves the range of positive finite numbers.
        """
        prior = config.entry
        labels = self.data.targets
        num_classes = len(self.dataset.classes)
        counts: Tensor | None = None
        means = torch.zeros(1, flow.config.dim)
        if prior.labelled:
            counts = torch.bincount(labels, minlength=num_classes)
            means = torch.zeros(num_classes, flow.config.dim)
        variances = torch.ones_like(means)
        if prior.needs_latents:
            statistics = class_statistics(
                flow,
                self.data,
                _representative(labels, num_classes, self.config.prior.statistics_images, choice),
                num_classes,
                batch_size=self.config.batch_size,
                generator=noise,
                ranks=self.ranks,
                progress=self.shown,
            )
            _, means, variances = statistics.finalize()
        with progress_bar(None, "solving for the Gaussians", shown=self.shown):
            means, variances, outcome = prior.solve(means, variances, config.settings, choice)
        gaussians = ClassGaussians(means, variances, counts).to(self.ranks.device)
        self.ranks.broadcast(gaussians.buffers())  # machines may round differently
        record = {"kind": config.kind, "schedule": self.config.prior.schedule, **outcome}
        return gaussians, record

    def checkpoint(self, flow: Flow, state: RunState, **records: Any) -> Checkpoint:
        """A checkpoint of a flow and the state's Gaussians; `records` go into its configuration."""
        config = CheckpointConfig(
            flow=flow.config,
            classes=tuple(self.classes),
            preprocessing=dict(self.dataset.preprocessing),
            gaussians=state.prior,
            autoencoder=flow.codec.record,
            **records,
        )
        return Checkpoint(flow, config, state.gaussians)


def open_context(
    images: Images,
    config: TrainConfig,
    ranks: Ranks,
    start: Flow | None = None,
    *,
    test_images: Images | None = None,
    progress: bool = True,
) -> RunContext:
    """Check the images, read those that fit in memory, and hold some out.

    A flow on an autoencoder's latents gets them here, computed once. Their scale is that of the
    flow `start`, or is measured.

    Raises:
        ValueError: If the images cannot be trained on with these settings.
    """
    prior = config.prior.entry
    num_classes = len(images.classes)
    if num_classes < prior.min_classes:
        raise ValueError(
            f"prior.kind {config.prior.kind!r} needs at least {prior.min_classes} classes, the "
            f"data have {num_classes}; set prior.kind to 'single'"
        )
    classes: Sequence[str] = images.classes if prior.labelled else ()
    if classes:
        check_class_sizes(images.targets, classes)
    shown = progress and ranks.main
    if start is None:
        codec = _measured_codec(images, config, ranks, shown)
    else:
        codec = start.codec if isinstance(start.codec, LatentCodec) else None
    # Settings that do not fit fail before the images are read.
    if codec is None:
        flow_config = FlowConfig(images.channels, images.image_size, config.flow)
    else:
        channels, height, width = codec.latent_shape
        flow_config = FlowConfig(channels, (height, width), config.flow)
        codec = codec.for_flow(flow_config)
        check_augmentation(config.augmentation)
    choice = torch.Generator().manual_seed(config.seed)
    trained = images
    if test_images is None:
        test_images, trained = images.split(share=config.dataset.test_fraction, generator=choice)
    else:
        test_images.check_like(images)
    read = functools.partial(
        in_memory,
        memory_gib=config.dataset.memory_gib,
        workers=config.dataset.workers,
        progress=shown,
        seed=seed_of(config.seed, ranks.rank),
        ranks=ranks,
    )
    test = read(test_images) if len(test_images) else None
    data = read(trained)
    if codec is not None:
        mirrored = config.augmentation.hflip
        if test is not None:
            test = latents_of(test, codec, ranks, mirrored=False, progress=shown)
        data = latents_of(data, codec, ranks, mirrored=mirrored, progress=shown)
    return RunContext(
        config,
        ranks,
        images,
        classes,
        noise_rng=torch.Generator(ranks.device).manual_seed(config.seed),
        choice_rng=choice,
        flow_config=flow_config,
        codec=codec,
        shown=shown,
        data=data,
        test=test,
    )


def _measured_codec(
    images: Images, config: TrainConfig, ranks: Ranks, shown: bool
) -> LatentCodec | None:
    """The codec of the autoencoder of the settings, if any, measured on some images."""
    if config.autoencoder is None:
        return None
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(images), generator=generator)[:_INIT_IMAGES]
    sample = decode(images.subset(order), progress=shown)
    return open_codec(
        config.autoencoder,
        sample,
        noise=config.latent_noise,
        device=ranks.device,
        progress=shown,
    )


def _representative(
    labels: Tensor, num_classes: int, most: int, generator: torch.Generator
) -> Tensor:
    """Indices of at most `most` random images, plus as many as give every class two."""
    order = torch.randperm(len(labels), generator=generator)[:most]
    counts = torch.bincount(labels[order], minlength=num_classes)
    for label in (counts < 2).nonzero().flatten().tolist():
        rows = (labels == label).nonzero().flatten()
        others = rows[~torch.isin(rows, order)]
        missing = 2 - int(counts[label])
        order = torch.cat([order, others[:missing]])
    return order
