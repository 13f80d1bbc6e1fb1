"""The configuration of a flow, and the registry of backbones."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from .backbone import Backbone, Identity
from .mef import MatrixExpBackbone

__all__ = ["BACKBONES", "FlowConfig"]

BACKBONES: dict[str, Backbone] = {
    "mef": MatrixExpBackbone(),
    "identity": Identity(),
}

# Configurations may come from untrusted files: sizes are bounded before memory is allocated.
_MAX_LEVELS = 10
_MAX_VALUES = 2**22  # per image
_MAX_PARAMETERS = 2**30
_MAX_TENSORS = 100_000
_SHAPE = ("channels", "image_size", "padded_size", "backbone")  # settings of every backbone


@dataclass(frozen=True)
class FlowConfig:
    """The architecture of a flow.

    The defaults are the paper's CIFAR flow: 42.8 M parameters, 12 GFLOP per image and direction.
    Settings that the backbone does not use must keep their defaults.

    Attributes:
        channels: Image channels.
        image_size: (height, width) of the images.
        padded_size: (height, width) inside the flow; None for the smallest multiple of 2^levels
            that holds the image. Images are centred on black, and the margin is cropped after
            decoding.
        steps: Steps per level.
        blocks: Residual blocks per coupling network, for each level.
        width: Channels of the coupling networks, for each level.
        low_rank_above: Couplings that transform more channels than this use low-rank matrices.
        rank: Rank of those matrices.
        bound: Largest norm of a coupling's matrix in training; sets the length of its series.
        squeeze: How a level folds space into channels: "pixel" for the four pixels of each 2 x 2
            block, "haar" for their orthonormal Haar coefficients.
        max_scale: ActNorm scales stay in [1/max_scale, max_scale]; None for no limit. The limit
            bounds the condition number of the map where pixels hardly vary.
        backbone: A name in `BACKBONES`: "mef" for matrix-exponential couplings, "identity" for a
            map without weights.

    Raises:
        ValueError: If a value is out of range, or the flow would exceed a size limit.

    Example:
        >>> config = FlowConfig(1, (28, 28), steps=(4, 4), blocks=(1, 1), width=(32, 32))
        >>> config.levels, config.shape, config.parameter_count
        (2, (1, 28, 28), 204424)
        >>> FlowConfig.from_dict(config.to_dict()) == config
        True
    """

    channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    padded_size: tuple[int, int] | None = None
    steps: tuple[int, ...] = (8, 8, 8)
    blocks: tuple[int, ...] = (8, 4, 2)
    width: tuple[int, ...] = (128, 128, 128)
    low_rank_above: int = 24
    rank: int = 3
    bound: float = 2.0
    squeeze: str = "pixel"
    max_scale: float | None = None
    backbone: str = "mef"

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str) or self.backbone not in BACKBONES:
            raise ValueError(
                f"unknown backbone {self.backbone!r}; choose one of {', '.join(BACKBONES)}"
            )
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):  # JSON and YAML give lists
                object.__setattr__(self, field.name, tuple(value))
        self._check_size("channels", (self.channels,), 1)
        self._check_size("image_size", self.image_size, 2)
        if self.padded_size is not None:
            self._check_size("padded_size", self.padded_size, 2)
        for field in dataclasses.fields(self):
            value, used = getattr(self, field.name), (*_SHAPE, *self._backbone.settings)
            if field.name not in used and value != field.default:
                raise ValueError(
                    f"the backbone {self.backbone!r} has no setting {field.name}: leave it at "
                    f"{field.default!r}; got {value!r}"
                )
        self._backbone.check_settings(self)
        self._check_padding()
        self._check_amount()

    def _check_size(self, name: str, value: Any, length: int) -> None:
        if (
            not isinstance(value, tuple)
            or len(value) != length
            or any(type(n) is not int or n < 1 for n in value)
        ):
            what = "(height, width)" if length == 2 else "a positive integer"
            raise ValueError(f"{name} must be {what}; got {getattr(self, name)!r}")

    def _check_padding(self) -> None:
        if self.levels > _MAX_LEVELS:
            raise ValueError(f"a flow has at most {_MAX_LEVELS} levels; got {self.levels}")
        unit = 2**self.levels
        if any(n % unit for n in self.size):
            raise ValueError(
                f"padded_size {self.size} cannot be halved {self.levels} times: use multiples of "
                f"{unit}, or None"
            )
        if any(big < small for big, small in zip(self.size, self.image_size, strict=True)):
            raise ValueError(f"padded_size {self.size} is smaller than image_size")

    def _check_amount(self) -> None:
        amounts = {
            "values per image": (self.dim, _MAX_VALUES),
            "tensors": (self.tensor_count, _MAX_TENSORS),
            "parameters": (self.parameter_count, _MAX_PARAMETERS),
        }
        for what, (amount, limit) in amounts.items():
            if amount > limit:
                raise ValueError(
                    f"this flow is too large: {amount} {what}; the limit is {limit}; {self}"
                )

    @property
    def _backbone(self) -> Backbone:
        return BACKBONES[self.backbone]

    @property
    def levels(self) -> int:
        """Number of levels; each halves height and width."""
        return self._backbone.levels(self)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) inside the flow, padding included."""
        if self.padded_size is not None:
            return self.padded_size
        unit = 2**self.levels
        height, width = (math.ceil(n / unit) * unit for n in self.image_size)
        return height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the flow's input and of its latent."""
        return (self.channels, *self.size)

    @property
    def dim(self) -> int:
        """d = C*H*W of the latent."""
        return math.prod(self.shape)

    @property
    def image_dim(self) -> int:
        """C*H*W of the images, without padding."""
        return self.channels * math.prod(self.image_size)

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return self._backbone.parameter_count(self)

    @property
    def tensor_count(self) -> int:
        """Number of tensors in the flow's state dict."""
        return self._backbone.tensor_count(self)

    @property
    def flop(self) -> int:
        """Floating-point operations per image and direction; a multiply-add counts as two."""
        return self._backbone.flop(self)

    def summary(self) -> dict[str, Any]:
        """Titles and values that describe the architecture, for a model card."""
        return {"backbone": self.backbone, **self._backbone.summary(self)}

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FlowConfig:
        """The configuration that `to_dict` returned; missing keys take their defaults.

        Raises:
            ValueError: If a key is unknown or a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown flow settings {unknown}; known are {sorted(known)}")
        return cls(**values)
