"""What a training run can be told: one frozen dataclass a concern, all with defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..flows.flow import Recompute
from ..gaussians.priors import PriorSettings
from .augmentation import FlowAugmentation

__all__ = [
    "TRACKERS",
    "DataConfig",
    "FlowSettings",
    "LatentConfig",
    "OptimConfig",
    "PCAConfig",
    "PriorConfig",
    "TrainConfig",
    "current_settings",
    "recipe_path",
    "recipes",
]

_IMAGES, _EPOCHS = 1_000_000, (10, 400)  # of epochs: 0
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class FlowSettings:
    """The flow's shape; channels and image size come from the data.

    Args:
        steps: Steps per level; as many entries as levels.
        blocks: Residual blocks per coupling network, per level.
        width: Channels of the coupling networks, per level.
        padded_size: Height and width that the flow works at, null for the next size that the
            levels can halve.
        low_rank_above: Couplings of more channels than this use low-rank matrices.
        rank: Their rank.
        bound: Largest norm of a coupling's matrix.
        squeeze: "pixel", or "haar" for the Haar coefficients of 2 x 2 blocks.
        max_scale: Largest scale of an ActNorm layer, null for no limit.
    """

    steps: tuple[int, ...] = (4, 4)
    blocks: tuple[int, ...] = (1, 1)
    width: tuple[int, ...] = (32, 32)
    padded_size: tuple[int, int] | None = None
    low_rank_above: int = 24
    rank: int = 3
    bound: float = 2.0
    squeeze: Literal["pixel", "haar"] = "pixel"
    max_scale: float | None = None


@dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Args:
        image_size: Height and width to resize to, null for the size of the data.
        channels: 1 for grayscale, 3 for RGB, null for what the data are.
        per_class: Use this many images of each class, chosen by the seed; null for all.
        val_fraction: Share of each class held out to measure on (none of a class under 20).
        on_error: What to do with a file that cannot be decoded: stop, or skip and count it.
        data_dir: Where named data sets are kept.
        download: Let named data sets be downloaded.
        workers: Processes that read images where they do not fit in memory.
        memory_gib: Data up to this size are decoded once and kept in memory.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    per_class: int | None = None
    val_fraction: float = 0.05
    on_error: Literal["raise", "skip"] = "raise"
    data_dir: str | None = None
    download: bool = False
    workers: int = 2
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie in [0, 1); got {self.val_fraction}")
        _check({"workers": self.workers, "memory_gib": self.memory_gib}, least=0)


@dataclass(frozen=True)
class PriorConfig(PriorSettings):
    """The class gaussians that the flow is trained under.

    The first four fields are those of `PriorSettings`.

    Args:
        refit_epoch: Solve again after this many epochs, in addition to the solve at the start; 0
            for never. Later, the gaussians stay fixed.
        statistics_images: The largest number of images that are encoded for a solve.
    """

    refit_epoch: int = 1
    statistics_images: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check({"refit_epoch": self.refit_epoch}, least=0)
        _check({"statistics_images": self.statistics_images}, least=1)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser (Adamax, arXiv:1412.6980) and what keeps it from blowing up.

    Args:
        warmup_steps: Steps of linear warm-up.
        decay: "cosine" to a hundredth at the end, or "constant".
        clip_norm: Largest global norm of the gradient of bits per dimension.
        max_bad_steps: After this many steps in a row whose loss or gradient is not finite, go back
            to the last saved state with half the learning rate.
        max_rollbacks: How often; the next time the run stops.
        ema_decay: Decay of the moving average of the weights.
        ema_power: Its warm-up: the decay at step n is at most 1 - (1 + n)^-power.
        recompute: Which activations are computed again in the backward pass, for less memory and
            more time: "none", those inside the flow's "steps" (a third more time), or there those
            inside residual "blocks" too (two thirds more).
    """

    warmup_steps: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 10.0
    max_bad_steps: int = 20
    max_rollbacks: int = 3
    ema_decay: float = 0.9999
    ema_power: float = 0.75
    recompute: Recompute = "none"

    def __post_init__(self) -> None:
        _check({"warmup_steps": self.warmup_steps, "max_rollbacks": self.max_rollbacks}, least=0)
        _check({"max_bad_steps": self.max_bad_steps}, least=1)
        _check({"clip_norm": self.clip_norm, "ema_power": self.ema_power}, above=0)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1); got {self.ema_decay}")


@dataclass(frozen=True)
class PCAConfig:
    """The classwise PCA that is fitted when training ends.

    Args:
        rank: Axes per class; fewer where a class has fewer images.
        max_per_class: Images of a class that are encoded at most.
        memory: Keep PCA coefficients of the training images as partners.
    """

    rank: int = 64
    max_per_class: int = 1000
    memory: bool = True

    def __post_init__(self) -> None:
        _check({"rank": self.rank}, least=1)
        _check({"max_per_class": self.max_per_class}, least=2)


@dataclass(frozen=True)
class LatentConfig:
    """How a flow works on an autoencoder's latents; of no meaning without `autoencoder`.

    Args:
        noise: Width of the uniform noise on latents, in standard deviations of their channel.
        images: Images on which mean and standard deviation of the channels are measured.
        cache: Compute latents once, of each image and with augmentation.hflip of its mirror image,
            and keep them in memory, within dataset.memory_gib; false to encode at each step.
    """

    noise: float = 1 / 64
    images: int = 512
    cache: bool = True

    def __post_init__(self) -> None:
        _check({"images": self.images}, least=2)
        if not 0 < self.noise <= 1:
            raise ValueError(f"latents.noise must lie in (0, 1]; got {self.noise}")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        epochs: Passes over the data; 0 for as many as make a million images, at least 10 and at
            most 400.
        max_minutes: Stop earlier when the time is up (null for no limit); the learning rate then
            decays with the time, and two runs differ.
        batch_size: Images per step, of all processes together.
        lr: Peak learning rate.
        seed: Seed of everything that is drawn.
        device: "cpu", "cuda", "cuda:1", ...; "auto" for the GPU where there is one.
        eval_every: Epochs between two looks at the held-out images.
        checkpoint_minutes: Minutes between two saved states, from which a run can go on.
        keep_checkpoints: How many of them are kept, the newest.
        trackers: Where figures and pictures go besides the run's folder: "tensorboard", "wandb",
            "trackio", each through Accelerate.
        pictures_every: Epochs between two sets of pictures; 0 for none before the end.
        autoencoder: Train on the latents of this frozen autoencoder, diffusers' AutoencoderKL: a
            directory, or owner/name on the Hub; null for pixels.
    """

    epochs: int = 100
    max_minutes: float | None = None
    batch_size: int = 128
    lr: float = 1e-2
    seed: int = 0
    device: str = "auto"
    eval_every: int = 1
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    pictures_every: int = 10
    autoencoder: str | None = None
    latents: LatentConfig = field(default_factory=LatentConfig)
    flow: FlowSettings = field(default_factory=FlowSettings)
    dataset: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pca: PCAConfig = field(default_factory=PCAConfig)
    augmentation: FlowAugmentation = field(default_factory=FlowAugmentation)

    def __post_init__(self) -> None:
        counts = {
            "batch_size": self.batch_size,
            "eval_every": self.eval_every,
            "keep_checkpoints": self.keep_checkpoints,
        }
        _check(counts, least=1)
        _check({"epochs": self.epochs, "pictures_every": self.pictures_every}, least=0)
        _check({"lr": self.lr, "checkpoint_minutes": self.checkpoint_minutes}, above=0)
        if unknown := [name for name in self.trackers if name not in TRACKERS]:
            raise ValueError(f"trackers must be of {list(TRACKERS)}; got {unknown}")
        if self.max_minutes is not None:
            _check({"max_minutes": self.max_minutes}, above=0)

    def for_images(self, count: int) -> TrainConfig:
        """The same with `epochs` chosen where it is 0, for that many training images."""
        if self.epochs:
            return self
        least, most = _EPOCHS
        epochs = min(most, max(least, math.ceil(_IMAGES / max(1, count))))
        return dataclasses.replace(self, epochs=epochs)

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of everything, defaults included."""
        return dataclasses.asdict(self)


def _check(
    values: Mapping[str, float], *, least: float | None = None, above: float | None = None
) -> None:
    """Refuse numbers below the least, at a bound or below it, or not finite."""
    for name, value in values.items():
        if least is not None and not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}; got {value}")
        if above is not None and not above < value < math.inf:
            raise ValueError(f"{name} must be above {above} and finite; got {value}")


def current_settings(file: str) -> str:
    """A YAML file of settings, or its text without settings that nfaug no longer has.

    Settings of earlier versions still load: the only one removed is prior.fixed_point.anderson,
    which changed the number of iterations of the fixed point.
    """
    if not Path(file).is_file() or "anderson" not in (text := Path(file).read_text("utf-8")):
        return file
    settings = yaml.safe_load(text)
    try:
        del settings["prior"]["fixed_point"]["anderson"]
    except (KeyError, TypeError):  # the word is elsewhere in the file
        return file
    return yaml.safe_dump(settings, sort_keys=False)


def recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe.

    Raises:
        ValueError: there is no such recipe; the message lists those that are.
    """
    if name not in recipes():
        raise ValueError(f"no recipe {name!r}; there are {', '.join(recipes())}")
    return Path(__file__).parent / "recipes" / f"{name}.yaml"
