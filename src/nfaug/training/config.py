"""Settings of a training run: a frozen dataclass per concern, all with defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nfaug.classes.priors import PriorConfig
from nfaug.data.augmentation import FlowAugmentation
from nfaug.fitting.config import PCAConfig
from nfaug.flows.backbone import Recompute
from nfaug.flows.mef_config import MefConfig
from nfaug.io.numbers import as_size, check_number, check_seed, check_side, check_whole
from nfaug.io.text import did_you_mean

_RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Args:
        image_size: Size to resize to: [height, width], or the side of a square; None for the size
            of the data, or at most 128 if they differ.
        channels: 1 for grayscale, 3 for RGB; None for the channels of the data.
        test_fraction: Share of each class that is held out for evaluation; classes of fewer than 20
            images hold none out.
        workers: Processes that read images if they do not fit in memory; None for one for each
            core that this process has to itself.
        memory_gib: Data up to this size are decoded once and kept in RAM.
    """

    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    test_fraction: float = 0.05
    workers: int | None = None
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        check_number("test_fraction", self.test_fraction, 0, 0.999)
        if self.image_size is not None:
            check_side(as_size(self.image_size))
        if self.workers is not None:
            check_whole("workers", self.workers, 0)


Schedule = Literal["once", "twice"]


@dataclass(frozen=True)
class TrainPriorConfig(PriorConfig):
    """The class Gaussians that the flow is trained under: a `PriorConfig`, and when it is solved.

    Args:
        schedule: "once": train under the data's Gaussians, those of the untrained flow, for
            `refit_epoch` epochs, then solve. This is the schedule of the paper's released
            configurations. "twice": solve on the untrained flow, and again after `refit_epoch`
            epochs. Later, the Gaussians stay fixed.
        refit_epoch: The number of epochs before the last solve, which a shorter run leaves out; 0
            to solve at the start alone.
        statistics_images: The largest number of images that are encoded for a solve.
    """

    schedule: Schedule = "once"
    refit_epoch: int = 1
    statistics_images: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("prior.schedule", self.schedule, get_args(Schedule))
        check_whole("refit_epoch", self.refit_epoch, 0)
        check_whole("statistics_images", self.statistics_images)

    @property
    def first(self) -> PriorConfig:
        """The Gaussians of the first epochs."""
        if self.schedule == "once" and self.refit_epoch and self.entry.needs_latents:
            return PriorConfig("data")
        return self

    @property
    def has_second_solve(self) -> bool:
        """Whether the Gaussians are solved after `refit_epoch` epochs.

        Under "once", those of the data and those that read no latents are never found again.
        """
        return self.refit_epoch > 0 and (self.schedule == "twice" or self.first.kind != self.kind)


Decay = Literal["cosine", "constant"]


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser (Adamax, arXiv:1412.6980).

    Args:
        warmup_steps: Steps of linear warm-up.
        decay: Learning-rate decay: "cosine" to a hundredth at the end, or "constant".
        clip_norm: Largest global norm of the gradient of bits per dimension.
        ema_decay: Decay of the moving average of the weights; at step n at most 1 - (1 + n)^-0.75.
        recompute: Activations to recompute in the backward pass, which saves memory: "none", or
            those inside the flow's "steps" (a third more time).
        bf16: Run the coupling networks in bfloat16 in training steps: a third faster on CPUs with
            bfloat16 instructions, several times slower on others. The trained flow is used and
            evaluated in float32.

    Raises:
        ValueError: A setting is out of range.
    """

    warmup_steps: int = 100
    decay: Decay = "cosine"
    clip_norm: float = 10.0
    ema_decay: float = 0.9999
    recompute: Recompute = "none"
    bf16: bool = False

    def __post_init__(self) -> None:
        check_choice("optim.decay", self.decay, get_args(Decay))
        check_choice("optim.recompute", self.recompute, get_args(Recompute))
        check_whole("warmup_steps", self.warmup_steps, 0)
        check_number("clip_norm", self.clip_norm, 0, math.inf, open_low=True)
        check_number("ema_decay", self.ema_decay, 0, 0.999999)  # of 1, the average never moves


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        epochs: Passes over the data; 0 for a million images in all, in 10 to 400 epochs.
        max_minutes: Stop after this many minutes (None for no limit). The learning rate then decays
            with time, so two runs differ.
        batch_size: Images per step, over all processes.
        lr: Peak learning rate.
        seed: Seed of all random numbers.
        device: "cpu", "cuda", "cuda:1", ...; "auto" for the GPU if there is one.
        eval_every: Epochs between evaluations on the held-out images.
        checkpoint_minutes: Minutes between saved states, from which a run can be resumed.
        tensorboard: Whether TensorBoard's files get the figures and pictures, beside log.csv.
        pictures_every: Epochs between pictures of samples, one at the end included; 0 for none.
        autoencoder: Train on the latents of this frozen autoencoder, a tiny one of TAESD's family:
            a safetensors file, a directory, or owner/name on the Hub; None for pixels. The latents
            of each image (and of its mirror image, with augmentation.hflip) are computed once and
            kept in memory.
        latent_noise: Width of the uniform noise on latents, in standard deviations of their
            channel.
        flow: The flow's architecture; channels and image size come from the data.
        dataset: How images are read.
        prior: The class Gaussians.
        optim: The optimiser.
        pca: The axes and the memory of each class, fitted at the end of training.
        augmentation: Augmentation of the flow's training images.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> from nfaug.training import TrainConfig
        >>> TrainConfig(epochs=3, lr=5e-3).to_dict()["optim"]["decay"]
        'cosine'
    """

    epochs: int = 100
    max_minutes: float | None = None
    batch_size: int = 128
    lr: float = 1e-2
    seed: int = 0
    device: str = "auto"
    eval_every: int = 1
    checkpoint_minutes: float = 10.0
    tensorboard: bool = True
    pictures_every: int = 10
    autoencoder: str | None = None
    latent_noise: float = 1 / 64
    flow: MefConfig = field(default_factory=MefConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    prior: TrainPriorConfig = field(default_factory=TrainPriorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pca: PCAConfig = field(default_factory=PCAConfig)
    augmentation: FlowAugmentation = field(default_factory=FlowAugmentation)

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size)
        check_whole("eval_every", self.eval_every)
        check_whole("epochs", self.epochs, 0)
        check_whole("pictures_every", self.pictures_every, 0)
        for name in ("lr", "checkpoint_minutes", "max_minutes"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 0, math.inf, open_low=True)
        check_number("latent_noise", self.latent_noise, 0, 1, open_low=True)
        check_seed(self.seed)

    def for_images(self, count: int) -> TrainConfig:
        """Replace `epochs: 0` by a number that suits the training images.

        Args:
            count: The number of images.

        Returns:
            These settings, or a copy with `epochs` from 10 to 400, for a million images in all.
        """
        if self.epochs:
            return self
        epochs = math.ceil(1_000_000 / max(1, count))
        return dataclasses.replace(self, epochs=min(400, max(10, epochs)))

    def to_dict(self) -> dict[str, Any]:
        """All settings as a nested dictionary, as train.yaml holds them.

        Returns:
            The settings by name.
        """
        return dataclasses.asdict(self)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value of a setting is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}"
            f"{did_you_mean(str(value), choices)}"
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"flow": {"steps": 4}} to {"flow.steps": 4}, as options are named."""
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{name}.")
        else:
            flattened[prefix + name] = value
    return flattened


def recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a recipe's YAML file; ValueError if there is none of this name."""
    if name not in recipes():
        raise ValueError(
            f"there is no recipe {name!r}{did_you_mean(name, recipes())} ({', '.join(recipes())})"
        )
    return _RECIPES / f"{name}.yaml"


def recipe_config(name: str) -> TrainConfig:
    """The settings of a recipe; ValueError if there is none of this name."""
    from jsonargparse import ArgumentParser  # a run in Python needs no parser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    return config_of(parser.instantiate(parser.parse_path(recipe_path(name))))


def config_of(settings: Mapping[str, Any]) -> TrainConfig:
    """The settings among parsed options."""
    names = [setting.name for setting in dataclasses.fields(TrainConfig)]
    return TrainConfig(**{name: settings[name] for name in names})
