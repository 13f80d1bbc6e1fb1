"""Training a flow: settings, data, model, optimiser, loop."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..batches import Batches, open_batches, progress_bar
from ..checkpoint import Checkpoint, CheckpointConfig
from ..checks import refuse_other_classes
from ..fitting import check_class_sizes, check_images, fit_classes, image_bits_per_dim, latent_nll
from ..flow import Flow
from ..gaussians import ClassGaussians
from .config import TrainConfig
from .data import wrap_dataset
from .images import LabelledImages
from .latents import flow_shape, open_codec, with_latents
from .metrics import evaluate
from .optimizer import FlowOptimizer, TrainingDiverged
from .prior import check_prior, prior_labels, solve_prior

__all__ = ["TrainResult", "TrainingDiverged", "pick_device", "train"]

_INIT_IMAGES = 512  # images that the data-dependent initialisation sees
_PROBES = 64  # images whose latents tell whether a flow is still finite
_LEAST_SPLIT = 20  # smaller classes keep all their images


@dataclass
class TrainResult:
    """A trained checkpoint, and how it came about.

    Attributes:
        checkpoint: the moving average of the flow, its gaussians and PCA.
        history: one row a look at the held-out images, as in `log.csv`.
        loss: bits per dimension of every step that was not skipped.
        initial: the flow right after its data-dependent initialisation, with the gaussians of
            that moment.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    initial: Checkpoint | None = None


def train(
    dataset: Dataset[Any],
    config: TrainConfig | None = None,
    *,
    val: Dataset[Any] | None = None,
    log: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a flow on any data set of (image, label).

    Maximum likelihood under one gaussian per class (Eq. 2), the gaussians as `config.prior` says:
    solved after the data-dependent initialisation and again after the first epoch, then fixed. On
    one machine's CPU the same seed gives the same weights; torch's global generators are left as
    they are. A step whose loss or gradient is not finite is skipped and counted.

    Args:
        dataset: images as `nfaug.training.wrap_dataset` takes them; labels 0..K-1. What fits in
            memory is read once, so that random transforms are drawn once: use
            `config.augmentation`.
        config: the run's settings.
        val: images to measure on; by default a share of each class is held out.
        log: a CSV file, written anew, with a row a look at the held-out images.
        progress: show bars.

    Raises:
        ValueError: the data set is empty, a class has fewer than two images, the held-out images
            are of other classes or another shape.
        FixedPointDivergence: the class gaussians cannot be found with these settings.
        TrainingDiverged: `optim.max_bad_steps` steps in a row were not finite, or the flow maps
            images to latents that are not.
    """
    images = wrap_dataset(dataset)
    config = (config or TrainConfig()).for_images(len(images))
    return _Run(images, config, val, log, progress).run()


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {name!r} to compute on: {reason}") from None


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


class _Run:
    def __init__(
        self,
        dataset: LabelledImages,
        config: TrainConfig,
        val: Dataset[Any] | None,
        log: str | Path | None,
        progress: bool,
    ) -> None:
        self.config = config
        self.progress = progress
        self.log = None if log is None else Path(log)
        self.device = pick_device(config.device)
        self.noise = torch.Generator(self.device).manual_seed(config.seed)
        self.choice = torch.Generator().manual_seed(config.seed)
        self.dataset = dataset
        self.classes: Sequence[str] = () if config.prior.kind == "single" else dataset.classes
        check_prior(config.prior, len(dataset.classes))
        if self.classes:
            check_class_sizes(dataset.targets, self.classes)
        self.codec = open_codec(dataset, config, self.device)
        self.flow = self._build()
        self.data, self.val = self._open(val)
        self.steps_per_epoch = math.ceil(len(self.data.labels) / config.batch_size)
        self.gaussians: ClassGaussians
        self.optimizer: FlowOptimizer
        self.prior_record: dict[str, Any] = {}
        self.started = time.monotonic()
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []

    def _build(self) -> Flow:
        shape, codec = flow_shape(self.dataset, self.config, self.codec)
        # Weights come from the global generator, as everywhere in torch; the caller's stays as it
        # is, and so do those of GPUs, which torch.manual_seed would seed too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            built = Flow(shape, codec=codec)
        built.recompute = self.config.optim.recompute
        return built.to(self.device)

    def _open(self, val: Dataset[Any] | None) -> tuple[Batches, Batches | None]:
        settings = self.config.dataset

        def opened(dataset: LabelledImages, *, mirrored: bool = True) -> Batches:
            data = open_batches(
                dataset,
                memory_gib=settings.memory_gib,
                workers=settings.workers,
                progress=self.progress,
            )
            return with_latents(
                data, self.codec, self.config, mirrored=mirrored, progress=self.progress
            )

        if val is not None:
            classes = self.dataset.classes
            held = wrap_dataset(val, classes=classes, complete=False)
            refuse_other_classes(held.classes, classes)
            check_images(self.flow, held)
            return opened(self.dataset), opened(held, mirrored=False)
        data = opened(self.dataset)
        rows, held_rows = hold_out(
            data.labels, len(self.dataset.classes), settings.val_fraction, self.choice
        )
        return data.subset(rows), data.subset(held_rows) if len(held_rows) else None

    def _initialize(self) -> None:
        order = torch.randperm(len(self.data.labels), generator=self.choice)[:_INIT_IMAGES]
        images = torch.cat([batch for batch, _ in self.data.iterate(order, _INIT_IMAGES)])
        shape = (len(images), *self.flow.config.shape)
        noise = torch.rand(shape, generator=self.noise, device=self.device)
        prepared = self.flow.codec.prepare(images.to(self.device))
        self.flow.initialize(self.flow.codec.dequantize(prepared, noise))

    def _solve(self) -> None:
        gaussians, self.prior_record = solve_prior(
            self.config.prior,
            self.flow,
            self.data,
            self.dataset.classes,
            batch_size=self.config.batch_size,
            generator=self.noise,
            choice=self.choice,
            progress=self.progress,
        )
        self.gaussians = gaussians.to(self.device)

    def _fraction_done(self) -> float:
        done = self.optimizer.steps / (self.config.epochs * self.steps_per_epoch)
        if self.config.max_minutes is not None:
            done = max(done, (time.monotonic() - self.started) / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def run(self) -> TrainResult:
        config = self.config
        self.started = time.monotonic()
        self._initialize()
        self._solve()
        initial = Checkpoint(copy.deepcopy(self.flow).eval(), self._config(), self.gaussians)
        self.optimizer = FlowOptimizer(self.flow, config)
        epoch = 0
        total = config.epochs * self.steps_per_epoch
        with progress_bar(total, "train", "step", shown=self.progress) as bar:
            for epoch in range(1, config.epochs + 1):
                order = torch.randperm(len(self.data.labels), generator=self.choice)
                for images, labels in self.data.iterate(order, config.batch_size):
                    loss = self.optimizer.step(self._loss(images, labels), self._fraction_done())
                    if loss is not None:
                        self.losses.append(loss)
                        bar.set_postfix(self._postfix(), refresh=False)
                    bar.update()
                    if self._fraction_done() >= 1:
                        break
                last = self._fraction_done() >= 1
                if epoch == config.prior.refit_epoch and not last:
                    self._refuse_broken(self.flow)
                    self._solve()
                if last or epoch % config.eval_every == 0:
                    self._record(epoch)
                if last:
                    break
        return self._finish(epoch, initial)

    def _postfix(self) -> dict[str, str]:
        row = self.history[-1] if self.history else {}
        accuracy = {"NF-Acc": f"{row['nf_acc']:.3f}"} if "nf_acc" in row else {}
        return {"bits/dim": f"{self.losses[-1]:.3f}"} | accuracy

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Bits per dimension of a batch, under dequantisation noise."""
        images = self.config.augmentation(images.to(self.device), generator=self.noise)
        labels = prior_labels(self.config.prior, labels).to(self.device)
        nll = latent_nll(self.flow, self.gaussians, images, labels, self.noise)
        return image_bits_per_dim(self.flow, nll).mean()

    @torch.no_grad()
    def _refuse_broken(self, flow: Flow) -> None:
        """Each step may have been finite, and the weights after the last one too large."""
        order = torch.arange(min(_PROBES, len(self.data.labels)))
        for images, _ in self.data.iterate(order, _PROBES):
            if not bool(flow.encode(images.to(self.device))[0].isfinite().all()):
                raise TrainingDiverged(
                    f"after {self.optimizer.steps} steps, {self.optimizer.skipped} of them "
                    "skipped, the flow maps images to latents that are not finite; "
                    f"{self.optimizer.advice()}"
                )

    def _record(self, epoch: int) -> None:
        recent = self.losses[-self.steps_per_epoch :]
        row: dict[str, float] = {
            "epoch": epoch,
            "step": self.optimizer.steps,
            "seconds": round(time.monotonic() - self.started, 2),
            f"train_{self.flow.codec.figure}": sum(recent) / len(recent) if recent else math.nan,
            "lr": self.optimizer.rate,
            "skipped_steps": self.optimizer.skipped,
        }
        if self.val is not None:
            row |= evaluate(
                self.optimizer.average, self.gaussians, self.val, progress=self.progress
            )
        self.history.append(row)
        if self.log is not None:
            first = len(self.history) == 1
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("w" if first else "a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if first:
                    writer.writeheader()
                writer.writerow(row)

    def _config(
        self, training: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None
    ) -> CheckpointConfig:
        return CheckpointConfig(
            flow=self.flow.config,
            class_names=tuple(self.classes),
            preprocessing=dict(self.dataset.preprocessing),
            gaussians=self.prior_record,
            training=training or {},
            metrics=metrics or {},
            autoencoder=self.flow.codec.record,
        )

    def _finish(self, epoch: int, initial: Checkpoint) -> TrainResult:
        flow = self.optimizer.average.eval()
        self._refuse_broken(flow)
        training = {
            "images": len(self.data.labels),
            "epochs": epoch,
            "steps": self.optimizer.steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "skipped_steps": self.optimizer.skipped,
            "skipped_files": len(self.dataset.skipped),
            "batch_size": self.config.batch_size,
            "lr": self.config.lr,
            "seed": self.config.seed,
        }
        metrics: dict[str, Any] = {}
        if self.val is not None:
            row = self.history[-1]
            names = (self.flow.codec.figure, "nf_acc", "nf_acc_top5")
            metrics = {name: row[name] for name in names if name in row}
            metrics["on"] = f"{int(row['images'])} held-out images"
        pca = None
        if self.classes:
            _, pca = fit_classes(
                flow,
                self.data,
                self.classes,
                **asdict(self.config.pca),
                seed=self.config.seed,
                progress=self.progress,
            )
        checkpoint = Checkpoint(flow, self._config(training, metrics), self.gaussians, pca)
        return TrainResult(checkpoint, self.history, self.losses, initial)
