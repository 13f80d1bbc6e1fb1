"""Settings of a training run: a frozen dataclass per concern, all with defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nfaug.classes.priors import PriorSettings
from nfaug.flows.flow import Recompute
from nfaug.flows.mef import MefSettings

from .augmentation import FlowAugmentation

__all__ = [
    "SMALL_FLOW",
    "TRACKERS",
    "DataConfig",
    "OptimConfig",
    "PCAConfig",
    "PriorConfig",
    "TrainConfig",
    "flat",
    "recipe_config",
    "recipe_path",
    "recipes",
]

_IMAGES, _EPOCHS = 1_000_000, (10, 400)  # what epochs: 0 stands for
TRACKERS = ("tensorboard", "wandb", "trackio")
SMALL_FLOW = MefSettings(steps=(4, 4), blocks=(1, 1), width=(32, 32))


@dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Args:
        image_size: Size to resize to: [height, width], or the side of a square; null for the size
            of the data.
        channels: 1 for grayscale, 3 for RGB; null for the channels of the data.
        per_class: Use this many random images of each class; null for all.
        val_fraction: Share of each class that is held out for evaluation; classes of fewer than 20
            images hold none out.
        on_error: Whether a file that cannot be decoded stops the run or is skipped and counted.
        data_dir: Where named data sets, and the cache of parquet files, are stored.
        download: Whether named data sets may be downloaded.
        workers: Processes that read images if they do not fit in memory.
        memory_gib: Data up to this size are decoded once and kept in memory.
    """

    image_size: int | tuple[int, int] | None = None
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

    def reading(self) -> dict[str, Any]:
        """The arguments of `open_dataset`."""
        others = ("val_fraction", "workers", "memory_gib")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in others}


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
            bfloat16 instructions, several times slower on others, with a warning. The trained flow
            is used and evaluated in float32.

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
        for name, choices in (("decay", get_args(Decay)), ("recompute", get_args(Recompute))):
            if (value := getattr(self, name)) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise ValueError(f"optim.{name} must be one of {allowed}; got {value!r}")
        _check({"warmup_steps": self.warmup_steps}, least=0)
        _check({"clip_norm": self.clip_norm}, above=0)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1); got {self.ema_decay}")


@dataclass(frozen=True)
class PCAConfig:
    """The classwise PCA, fitted at the end of training.

    Args:
        rank: Axes per class; fewer if the class has fewer images.
        max_per_class: Largest number of images to encode per class.
        memory: Store the PCA coefficients of the training images as mixing partners.
    """

    rank: int = 64
    max_per_class: int = 1000
    memory: bool = True

    def __post_init__(self) -> None:
        _check({"rank": self.rank}, least=1)
        _check({"max_per_class": self.max_per_class}, least=2)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        epochs: Passes over the data; 0 for a million images in all, in 10 to 400 epochs.
        max_minutes: Stop after this many minutes (null for no limit). The learning rate then decays
            with time, so two runs differ.
        batch_size: Images per step, over all processes.
        lr: Peak learning rate.
        seed: Seed of all random numbers.
        device: "cpu", "cuda", "cuda:1", ...; "auto" for the GPU if there is one.
        eval_every: Epochs between evaluations on the held-out images.
        checkpoint_minutes: Minutes between saved states, from which a run can be resumed.
        trackers: Trackers that receive metrics and pictures through Accelerate: "tensorboard",
            "wandb", "trackio".
        pictures_every: Epochs between pictures of samples, one at the end included; 0 for none.
        autoencoder: Train on the latents of this frozen autoencoder, a tiny one of TAESD's family
            or a diffusers AutoencoderKL or AutoencoderDC: a safetensors file, a directory, or
            owner/name on the Hub; null for pixels. The latents of each image (and of its mirror
            image, with augmentation.hflip) are computed once and kept in memory.
        latent_noise: Width of the uniform noise on latents, in standard deviations of their
            channel.
        flow: The flow's architecture; channels and image size come from the data.
        dataset: How images are read.
        prior: The class gaussians.
        optim: The optimiser.
        pca: The classwise PCA.
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
    trackers: tuple[str, ...] = ("tensorboard",)
    pictures_every: int = 10
    autoencoder: str | None = None
    latent_noise: float = 1 / 64
    flow: MefSettings = field(default_factory=lambda: SMALL_FLOW)
    dataset: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pca: PCAConfig = field(default_factory=PCAConfig)
    augmentation: FlowAugmentation = field(default_factory=FlowAugmentation)

    def __post_init__(self) -> None:
        _check({"batch_size": self.batch_size, "eval_every": self.eval_every}, least=1)
        _check({"epochs": self.epochs, "pictures_every": self.pictures_every}, least=0)
        _check({"lr": self.lr, "checkpoint_minutes": self.checkpoint_minutes}, above=0)
        if not 0 < self.latent_noise <= 1:
            raise ValueError(f"latent_noise must lie in (0, 1]; got {self.latent_noise}")
        if not -(2**63) <= self.seed < 2**63:  # what generators of torch take
            raise ValueError(f"seed must lie in [-2^63, 2^63); got {self.seed}")
        if unknown := [name for name in self.trackers if name not in TRACKERS]:
            raise ValueError(f"trackers must be among {list(TRACKERS)}; got {unknown}")
        if self.max_minutes is not None:
            _check({"max_minutes": self.max_minutes}, above=0)

    def for_images(self, count: int) -> TrainConfig:
        """Replace `epochs: 0` by a number that suits `count` training images."""
        if self.epochs:
            return self
        least, most = _EPOCHS
        epochs = min(most, max(least, math.ceil(_IMAGES / max(1, count))))
        return dataclasses.replace(self, epochs=epochs)

    def to_dict(self) -> dict[str, Any]:
        """All settings as a nested dictionary."""
        return dataclasses.asdict(self)


def _check(
    values: Mapping[str, float], *, least: float | None = None, above: float | None = None
) -> None:
    """Check that numbers are finite, and at least `least` or above `above`."""
    for name, value in values.items():
        if least is not None and not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}; got {value}")
        if above is not None and not above < value < math.inf:
            raise ValueError(f"{name} must be above {above} and finite; got {value}")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"flow": {"steps": 4}} to {"flow.steps": 4}, as options are named."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Path of a recipe's YAML file.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in recipes():
        raise ValueError(f"there is no recipe {name!r}; choose among {', '.join(recipes())}")
    return Path(__file__).parent / "recipes" / f"{name}.yaml"


def recipe_config(name: str) -> TrainConfig:
    """The settings of a recipe; ValueError if there is none of this name."""
    from jsonargparse import ArgumentParser  # a run in Python needs no parser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    settings = parser.instantiate(parser.parse_path(recipe_path(name)))
    return TrainConfig(
        **{field.name: settings[field.name] for field in dataclasses.fields(TrainConfig)}
    )
